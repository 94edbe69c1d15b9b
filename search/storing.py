"""A trial of hundreds of parameters reaches the database in one statement."""

from __future__ import annotations

from copy import copy
from functools import cache
from typing import Any

from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial
from sqlalchemy import insert
from sqlalchemy.orm import Session


class PlanStorage(RDBStorage):
    """Optuna's, but for how the parameters of a trial that is stored as a whole are written.

    Optuna writes them one by one, three statements each: whether the trial may still be changed, whether another trial
    has a distribution that contradicts, the parameter. Of a trial that is new in this very transaction the first is
    known, and a study's settings say what its space is.
    """

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


@cache
def _written(distribution: BaseDistribution) -> str:
    return distribution_to_json(distribution)
