"""Rungs: asynchronous successive halving on several objectives, and what would have become of a trial one ended.

Li et al. 2020 (arXiv 1810.05934), with non-dominated ranks in place of one score: Optuna's pruners refuse studies of
more than one objective.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Sequence
from copy import copy
from statistics import median
from typing import NamedTuple

import numpy as np
from optuna import Study
from optuna.trial import FrozenTrial, TrialState

# Share of a rung's trials that go on to the next. Healing costs ten times what the first two rungs cost together, so
# few get there.
SURVIVAL = (1 / 3, 1 / 6)
# Until a rung has seen this many trials, all go on.
_FIRST_TRIALS = 6
# Bytes count in grains, so many to the bound: less is filled up by a finalist, and should decide nothing before.
_GRAINS = 50
_LEAST = 1e-9
# Attributes of trials: divergence and seconds up to each rung reached; bytes; how many sublayers are removed.
DIVERGENCES, SECONDS, BYTES, REMOVED = "divergences", "seconds", "bytes", "removed"


class Score(NamedTuple):
    """What a trial has at a rung: divergence (nats a token), grains of bytes, and how many sublayers are removed.

    Of two plans that are as close, the one with more sublayers is closer once it is healed for long (decision 0015).
    """

    divergence: float
    grains: int
    removed: int = 0


def grains(size_bytes: int, bound_bytes: int) -> int:
    """Bytes in fiftieths of the bound, rounded up."""
    return -(-_GRAINS * size_bytes // bound_bytes)


def score_of(trial: FrozenTrial, divergence: float, bound_bytes: int) -> Score:
    """What an ended trial has at the rung where it had this divergence."""
    return Score(divergence, grains(trial.user_attrs[BYTES], bound_bytes), trial.user_attrs[REMOVED])


def promising(score: Score, earlier: Sequence[Score], survival: float) -> bool:
    """Whether a score is among the best share `survival` of its rung, itself included; NaN never is.

    The fewer fronts lie before it the better. Within its front only those are better that are closer and keep as much.
    """
    if math.isnan(score.divergence):
        return False
    if len(earlier) < _FIRST_TRIALS:
        return True
    ranks = nondominated_ranks([*earlier, score])
    better = sum(
        rank < ranks[-1]
        or (rank == ranks[-1] and other.divergence < score.divergence and other.removed <= score.removed)
        for rank, other in zip(ranks, earlier, strict=False)
    )
    return better < survival * (len(earlier) + 1)


def nondominated_ranks(scores: Sequence[Score]) -> list[int]:
    """The front of each score: 0 where none is better in one objective and at least as good in all others.

    Then those that only scores of front 0 dominate, and so on (Deb et al. 2002, section III.A); NaN is behind all.
    """
    table = np.array(scores, dtype=float).reshape(-1, len(Score._fields))
    ranks = np.full(len(scores), len(scores))
    left, rank = np.flatnonzero(~np.isnan(table[:, 0])), 0
    while len(left):
        mine, others = table[left][:, None], table[left][None]
        beaten = np.any(np.all(others <= mine, axis=2) & np.any(others < mine, axis=2), axis=1)
        ranks[left[~beaten]] = rank
        left, rank = left[beaten], rank + 1
    return [int(one) for one in ranks]


def rung_scores(trials: Iterable[FrozenTrial], bound_bytes: int) -> list[list[Score]]:
    """Scores of all ended trials at each rung that can end one; what a pruned trial reached counts too."""
    ended = [
        (trial, trial.user_attrs[DIVERGENCES])
        for trial in trials
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
    ]
    return [
        [score_of(trial, found[rung], bound_bytes) for trial, found in ended if len(found) > rung]
        for rung in range(len(SURVIVAL))
    ]


class SeenStudy(Study):
    """A study as a sampler sees it: a pruned trial is a complete one with the divergence it would probably have had.

    Samplers of Optuna's leave a pruned trial of two objectives out, or count it among the bad ones whatever it scored.
    """

    def __init__(self, study: Study) -> None:
        self.__dict__.update(study.__dict__)

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        trials = super()._get_trials(deepcopy, None, use_cache)
        expected = _Expected([trial for trial in trials if trial.state == TrialState.COMPLETE])
        seen = [expected.completed(trial) if trial.state == TrialState.PRUNED else trial for trial in trials]
        return [trial for trial in seen if states is None or trial.state in states]


class _Expected:
    """Where a score of each rung leads, by the median of what it led to so far."""

    def __init__(self, complete: Sequence[FrozenTrial]) -> None:
        scores = [trial.user_attrs[DIVERGENCES] for trial in complete if DIVERGENCES in trial.user_attrs]
        self._steps = [
            median([math.log(max(_LEAST, x[rung + 1]) / max(_LEAST, x[rung])) for x in scores] or [0.0])
            for rung in range(len(SURVIVAL))
        ]

    def completed(self, trial: FrozenTrial) -> FrozenTrial:
        """A pruned trial as if it had ended; as it is where it has no score."""
        scores = trial.user_attrs.get(DIVERGENCES)
        if not scores or math.isnan(scores[-1]):
            return trial
        found = copy(trial)
        found.state = TrialState.COMPLETE
        found.values = [scores[-1] * math.exp(sum(self._steps[len(scores) - 1 :])), trial.user_attrs[BYTES]]
        return found
