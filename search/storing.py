"""Studies in a database, as their driver needs them: a trial of hundreds of parameters in one statement."""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import copy
from datetime import datetime
from functools import cache
from typing import Any

from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages import RDBStorage
from optuna.storages._cached_storage import _CachedStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Engine, insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session


class PlanStorage(RDBStorage):
    """Optuna's, but for how the parameters of a trial that is stored as a whole are written, and for indices.

    Optuna writes parameters one by one, three statements each: whether the trial may still be changed, whether another
    trial has a distribution that contradicts, the parameter. Of a trial that is new in this very transaction the first
    is known, and a study's settings say what its space is.

    Optuna makes tables that are missing, but no index of a table that is there: where its maker was killed between the
    two, nothing would keep a second study from having the same name.
    """

    def __init__(self, url: str, *, skip_table_creation: bool = False, **arguments: Any) -> None:
        try:
            super().__init__(url, skip_table_creation=skip_table_creation, **arguments)
            if not skip_table_creation:
                _make_indices(self.engine)
        except DBAPIError:
            self.engine.dispose()  # one that is not taken leaves no connections behind
            raise

    def _get_prepared_new_trial(
        self, study_id: int, template_trial: FrozenTrial | None, session: Session
    ) -> models.TrialModel:
        if template_trial is None or not template_trial.params:
            return super()._get_prepared_new_trial(study_id, template_trial, session)
        bare = copy(template_trial)
        bare.params, bare.distributions = {}, {}
        trial = super()._get_prepared_new_trial(study_id, bare, session)
        rows: list[dict[str, Any]] = [
            {
                "trial_id": trial.trial_id,
                "param_name": name,
                "param_value": distribution.to_internal_repr(template_trial.params[name]),
                "distribution_json": _written(distribution),
            }
            for name, distribution in template_trial.distributions.items()
        ]
        session.execute(insert(models.TrialParamModel), rows)
        return trial


class DrivenStorage(_CachedStorage):
    """Of one study, for the only process that writes its trials: what it wrote is known, and not read again.

    Optuna reads every trial that runs again at every look at it and at its study; a driver has as many as it has
    workers, and looks at every rung. Read again is what a write may or may not have reached, and all trials once one
    is missing of those before a new one; after a state is set, its times.
    """

    def __init__(self, backend: RDBStorage) -> None:
        super().__init__(backend)
        # the id of the study once it was read, and those of trials that are to be read again
        self._known: int | None = None
        self._changed: set[int] = set()

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        trial_id = super().create_new_trial(study_id, template_trial)
        study = self._studies[study_id]
        if self._known is not None and len(study.trials) <= self._cached(trial_id).number:
            # a creation whose reply was lost, and which Optuna tried again
            self._known, study.last_finished_trial_id = None, -1
        if template_trial is not None and template_trial.state.is_finished():
            self._changed.add(trial_id)
        else:
            trial = self._cached(trial_id)
            trial.user_attrs, trial.system_attrs = _as_stored(trial.user_attrs), _as_stored(trial.system_attrs)
        return trial_id

    def get_trial(self, trial_id: int) -> FrozenTrial:
        if trial_id not in self._trial_id_to_study_id_and_number:
            return super().get_trial(trial_id)
        if trial_id in self._changed:
            self._keep(self._backend.get_trial(trial_id))
        found = copy(self._cached(trial_id))
        # a trial that is asked for writes to what it is given
        found.params, found.distributions = dict(found.params), dict(found.distributions)
        found.user_attrs, found.system_attrs = dict(found.user_attrs), dict(found.system_attrs)
        found.intermediate_values = dict(found.intermediate_values)
        return found

    def set_trial_param(self, trial_id: int, *arguments: Any) -> None:
        self._changed.add(trial_id)
        super().set_trial_param(trial_id, *arguments)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        known = self._doubted(trial_id)
        done = super().set_trial_state_values(trial_id, state, values)
        if known is not None and done:
            known.state = state
            known.datetime_start, known.datetime_complete = self._times(trial_id)
            if values is not None:
                known.values = list(map(float, values))
            self._keep(known)
        return done

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        self._changed.add(trial_id)
        super().set_trial_intermediate_value(trial_id, step, intermediate_value)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        known = self._doubted(trial_id)
        super().set_trial_user_attr(trial_id, key, value)
        if known is not None:
            known.user_attrs = known.user_attrs | _as_stored({key: value})
            self._keep(known)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        known = self._doubted(trial_id)
        super().set_trial_system_attr(trial_id, key, value)
        if known is not None:
            known.system_attrs = known.system_attrs | _as_stored({key: value})
            self._keep(known)

    def _read_trials_from_remote_storage(self, study_id: int) -> None:
        assert self._known in (None, study_id), "one study"
        if self._known is not None:
            if not self._changed:
                return
            study = self._studies[study_id]
            study.unfinished_trial_ids = set(self._changed)
            study.last_finished_trial_id = max((trial._trial_id for trial in study.trials.values()), default=-1)
        super()._read_trials_from_remote_storage(study_id)
        self._known = study_id
        self._changed.clear()

    def _doubted(self, trial_id: int) -> FrozenTrial | None:
        """A copy of a trial that is about to be written to, which is read again if that fails; None if it is anyhow."""
        known = trial_id in self._trial_id_to_study_id_and_number and trial_id not in self._changed
        self._changed.add(trial_id)
        return copy(self._cached(trial_id)) if known else None

    def _cached(self, trial_id: int) -> FrozenTrial:
        study_id, number = self._trial_id_to_study_id_and_number[trial_id]
        return self._studies[study_id].trials[number]

    def _keep(self, trial: FrozenTrial) -> None:
        """Has a trial as the database does."""
        study_id, number = self._trial_id_to_study_id_and_number[trial._trial_id]
        self._studies[study_id].trials[number] = trial
        self._changed.discard(trial._trial_id)

    def _times(self, trial_id: int) -> tuple[datetime | None, datetime | None]:
        """When a trial began and ended."""
        with Session(self._backend.engine) as session:
            stored = models.TrialModel.find_or_raise_by_id(trial_id, session)
            return stored.datetime_start, stored.datetime_complete


def _make_indices(engine: Engine) -> None:
    for table in models.BaseModel.metadata.sorted_tables:
        for index in table.indexes:
            index.create(engine, checkfirst=True)


def _as_stored(attributes: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(attributes))
    return found


@cache
def _written(distribution: BaseDistribution) -> str:
    return distribution_to_json(distribution)
