"""Rungs: asynchronous successive halving on several objectives, and what would have become of a trial one ended.

Li et al. 2020 (arXiv 1810.05934), with non-dominated ranks in place of one score: Optuna's pruners refuse studies of
more than one objective.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Sequence
from copy import copy
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from optuna import Study
from optuna.trial import FrozenTrial, TrialState

# Share of a rung's trials that go on to the next. Healing costs many times what the first two rungs cost together, so
# few get there; the first, on few utterances, knows little and costs little, so it is lax (decision 0018, measured on
# the bundled model).
SURVIVAL = (1 / 2, 1 / 6)
# Until a rung has seen this many trials, all go on.
_FIRST_TRIALS = 6
# Bytes count in grains, so many to the bound: less is filled up by a finalist, and should decide nothing before. With
# finer ones most plans are behind one that is as close, and the front is plans that are smaller and far off.
_GRAINS = 10
_LEAST = 1e-9
_RIDGE = 0.5
# Attributes of trials: divergence at each rung before healing, seconds up to each rung reached; bytes; how many
# sublayers are removed.
DIVERGENCES, SECONDS, BYTES, REMOVED = "divergences", "seconds", "bytes", "removed"


class Score(NamedTuple):
    """What a trial has at a rung: divergence (nats a token), grains of bytes, and how many sublayers are removed.

    Of ended trials the loss after healing may stand in the divergence's place.

    Of two plans that are as close, the one with more sublayers is closer once it is healed for long (decision 0015).
    """

    divergence: float
    grains: int
    removed: int = 0


def grains(size_bytes: int, bound_bytes: int) -> int:
    """Bytes in tenths of the bound, rounded up."""
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
    """A study as a sampler sees it: a pruned trial is a complete one with the loss it would probably have had.

    Samplers of Optuna's leave a pruned trial of two objectives out, or count it among the bad ones whatever it scored.
    """

    def __init__(self, study: Study) -> None:
        self.__dict__.update(study.__dict__)

    def told(self) -> list[FrozenTrial]:
        """The trials as they are: a pruned one is pruned."""
        return super()._get_trials(deepcopy=False)

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        trials = super()._get_trials(deepcopy, None, use_cache)
        expected = expected_losses(trials)
        seen = [_completed(trial, expected[i]) if i in expected else trial for i, trial in enumerate(trials)]
        return [trial for trial in seen if states is None or trial.state in states]


def _completed(trial: FrozenTrial, loss: float) -> FrozenTrial:
    found = copy(trial)
    found.state = TrialState.COMPLETE
    found.values = [loss, trial.user_attrs[BYTES]]
    return found


def expected_losses(trials: Sequence[FrozenTrial]) -> dict[int, float]:
    """What pruned trials would have come to, by their place in the list: from the complete ones, by ridge regression.

    On the log of the divergence at the last rung reached, how many sublayers are removed and that squared: how close a
    plan is, how much it keeps, and that too little is lost (decision 0016); and on the steps of healing. Of two plans
    that keep as much the closer one is never expected to be worse, be it closer than any before. Nothing where no trial
    is complete, and nothing of trials without a score.
    """
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE and _scored(trial)]
    found: dict[int, float] = {}
    for rung in range(len(SURVIVAL)) if complete else ():
        known = [
            (i, trial)
            for i, trial in enumerate(trials)
            if trial.state == TrialState.PRUNED and _scored(trial) and len(trial.user_attrs[DIVERGENCES]) == rung + 1
        ]
        if not known:
            continue
        table = np.array([_features(trial, rung) for trial in [*complete, *(trial for _, trial in known)]])
        losses = np.array([trial.values[0] for trial in complete])
        means = table.mean(0)
        closer, farther = ridge(table[: len(complete)], losses, np.stack([means, means + np.eye(len(means))[0]]))
        if farther < closer:
            table[:, 0] = 0
        guessed = ridge(table[: len(complete)], losses, table[len(complete) :])
        # below 0 the order still says which to try
        found |= {i: float(loss) for (i, _), loss in zip(known, np.minimum(guessed, 100), strict=True)}
    return found


def _scored(trial: FrozenTrial) -> bool:
    """Whether a trial has divergences, and all of them are numbers."""
    found = trial.user_attrs.get(DIVERGENCES, ())
    return bool(found) and all(map(math.isfinite, found))


def _features(trial: FrozenTrial, rung: int) -> list[float]:
    distance = math.log(max(_LEAST, trial.user_attrs[DIVERGENCES][rung]))
    removed = trial.user_attrs[REMOVED]
    return [distance, removed, removed**2, trial.params["heal_steps"]]


def ridge(known: NDArray[np.float64], values: NDArray[np.float64], asked: NDArray[np.float64]) -> NDArray[np.float64]:
    """Predictions for `asked` (n, features) by ridge regression of `values` on `known` (m, features), standardised."""
    centre, scale = known.mean(0), known.std(0)
    scale[scale == 0] = 1
    features = (known - centre) / scale
    normal = features.T @ features + _RIDGE * np.eye(features.shape[1])
    weights = np.linalg.solve(normal, features.T @ (values - values.mean()))
    found: NDArray[np.float64] = values.mean() + (asked - centre) / scale @ weights
    return found
