"""Asking for a trial: a proposal reaches the storage in one piece.

Optuna stores a trial first, then one parameter after the other, a transaction each: for hundreds of parameters that is
most of what a trial costs its driver, in SQLite tenths of a second, in a database behind a network seconds. A proposal
that needs no trial to be made for is stored with its trial.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from optuna import Study, Trial
from optuna.distributions import BaseDistribution
from optuna.trial import TrialState, create_trial


class UnaskedError(Exception):
    """The search was to stop while a proposal was made; nothing of it is stored."""


@runtime_checkable
class Proposer(Protocol):
    """A sampler that says what a trial of a number will be; unless it `needs_trial`, one that is stored already."""

    needs_trial: bool

    def space(self) -> dict[str, BaseDistribution]:
        """Of all parameters."""

    def proposal(self, study: Study, number: int) -> tuple[dict[str, Any], Mapping[str, Any]]:
        """Parameters, and user attributes that the trial keeps."""


def asked(study: Study) -> Trial:
    """The next trial: one that waits, or the sampler's proposal. Nobody else may be asking.

    Raises UnaskedError where a sampler that takes long was told to stop.
    """
    sampler, trials = study.sampler, study.get_trials(deepcopy=False)
    waiting = any(trial.state == TrialState.WAITING for trial in trials)
    if waiting or not isinstance(sampler, Proposer) or sampler.needs_trial:
        return study.ask()
    params, kept = sampler.proposal(study, len(trials))
    running = create_trial(
        state=TrialState.RUNNING, params=params, distributions=sampler.space(), user_attrs=dict(kept)
    )
    return Trial(study, study._storage.create_new_trial(study._study_id, running))
