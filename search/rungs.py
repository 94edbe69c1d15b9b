"""Rungs: asynchronous successive halving on several objectives, and what would have become of a trial one ended.

Li et al. 2020 (arXiv 1810.05934), with non-dominated ranks in place of one score: Optuna's pruners refuse studies of
more than one objective. Once enough trials are complete, rungs rank by the loss that a plan can be expected to have:
by how close it is and by what it is made of (decision 0019).
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from optuna import Study
from optuna.trial import FrozenTrial, TrialState
from scipy.optimize import isotonic_regression

from search.gates import SURVIVAL

# Until a rung has seen this many trials, all go on; then a trial is held against the last so many. A search gets
# better: beside all that ever were, most of its later trials are among the best (decision 0028).
_FIRST_TRIALS, _LAST_TRIALS = 6, 24
# Bytes count in grains, so many to the bound: less is filled up by a finalist, and should decide nothing before. With
# finer ones most plans are behind one that is as close, and the front is plans that are smaller and far off.
_GRAINS = 10
_LEAST = 1e-9
# Complete trials from which losses are expected by what plans are made of, and the prices of weights before and then.
LEARNT, _FEW_PRICE, _PRICE = 12, 0.5, 10.0
# Losses (100 - chrF) are told apart from here up, and none is expected below the best by more than this factor.
_LEAST_LOSS, _BETTER = 0.5, 4.0
# Attributes of trials: divergence, or the study's other gate, at each rung before healing; seconds up to each rung
# reached; bytes; how many sublayers are removed; what the plan is made of (`space.traits`); the range it keeps to in a
# study over all sizes.
DIVERGENCES, SECONDS, BYTES, REMOVED, TRAITS = "divergences", "seconds", "bytes", "removed", "traits"
RANGE = "range"
# And the divergence after healing, of a complete trial.
HEALED = "healed divergence"
# How much counts of what the loss of one healing has beyond what others lead one to expect.
_OWN = 0.25


@dataclass(frozen=True)
class Standing:
    """How far a trial got: the divergence at each rung reached (nats a token), and its `loss` if it went through all.

    And its plan: bytes, removed sublayers, and traits, which trials of earlier versions have none of. `range` is the
    one it keeps to, where a study has several.
    """

    divergences: tuple[float, ...]
    size_bytes: int
    removed: int
    heal_steps: int
    traits: Mapping[str, float]
    loss: float | None = None
    range: str | None = None


def standing_of(trial: FrozenTrial) -> Standing | None:
    """Of a trial that is complete or was pruned at a rung; None of any other."""
    kept = trial.user_attrs
    if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED) or not kept.get(DIVERGENCES):
        return None
    loss = trial.values[0] if trial.state == TrialState.COMPLETE else None
    heal_steps = trial.params["heal_steps"]
    return Standing(
        tuple(kept[DIVERGENCES]), kept[BYTES], kept[REMOVED], heal_steps, kept.get(TRAITS, {}), loss, kept.get(RANGE)
    )


def standings(trials: Sequence[FrozenTrial]) -> dict[int, Standing]:
    """Of all trials that have one, by their number, with settled losses."""
    return {trial.number: found for trial in settled(trials) if (found := standing_of(trial)) is not None}


def settled(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Trials of which complete ones have the loss that another healing could be expected to find (decision 0026).

    What one healing comes to is a draw; the divergence after it is less of one. A loss is therefore that of an isotonic
    regression of all losses on these divergences, and a quarter of what is left to the one found.
    """
    known = [i for i, one in enumerate(trials) if one.state == TrialState.COMPLETE and _healed(one)]
    losses = [trials[i].values[0] for i in known]
    found = list(trials)
    for i, loss in zip(known, settle(losses, [trials[i].user_attrs[HEALED] for i in known]), strict=True):
        found[i] = _completed(trials[i], loss, trials[i].values[1])
    return found


def least(trials: Sequence[FrozenTrial]) -> FrozenTrial:
    """Of complete trials the one with the least loss."""
    return min(trials, key=lambda trial: (trial.values[0], trial.number))


def settle(losses: Sequence[float], divergences: Sequence[float]) -> list[float]:
    """Losses of healings, settled by the divergences after them; all are numbers."""
    order = np.argsort(divergences, kind="stable")
    found = np.array(losses, dtype=float)
    if len(found):
        smooth = isotonic_regression(found[order]).x
        found[order] = smooth + _OWN * (found[order] - smooth)
    return [float(one) for one in found]


def _healed(trial: FrozenTrial) -> bool:
    return math.isfinite(trial.user_attrs.get(HEALED, math.nan)) and math.isfinite(trial.values[0])


class Score(NamedTuple):
    """What a trial has at a rung: divergence (nats a token), grains of bytes, and how many sublayers are removed.

    The loss after healing, found or expected, may stand in the divergence's place, and nothing in the last one's.

    Of two plans that are as close, the one with more sublayers is closer once it is healed for long (decision 0015).
    """

    divergence: float
    grains: int
    removed: int = 0


def grains(size_bytes: int, bound_bytes: int) -> int:
    """Bytes in tenths of the bound, rounded up."""
    return -(-_GRAINS * size_bytes // bound_bytes)


def goes_on(
    mine: Standing, earlier: Sequence[Standing], bound_bytes: int, survival: Sequence[float] = SURVIVAL
) -> bool:
    """Whether a trial goes on from the last rung it reached, beside those that `earlier` trials of its range had there.

    What losses can be expected is learnt from all of them.
    """
    rung = len(mine.divergences) - 1
    there = [*(one for one in earlier if len(one.divergences) > rung and one.range == mine.range), mine]
    complete = [one for one in earlier if one.loss is not None and _scored(one)]
    size = [grains(one.size_bytes, bound_bytes) for one in there]
    if len(complete) < LEARNT or not all(one.traits for one in (*there, *complete)):
        scores = [Score(one.divergences[rung], of, one.removed) for one, of in zip(there, size, strict=True)]
    else:
        scores = [Score(float(loss), of) for loss, of in zip(expected(there, complete, rung), size, strict=True)]
    return promising(scores[-1], scores[:-1], survival[rung])


def promising(score: Score, earlier: Sequence[Score], survival: float) -> bool:
    """Whether a score is among the best share `survival` of the last of its rung, itself included; NaN never is.

    The fewer fronts lie before it the better. Within its front only those are better that are closer and keep as much.
    """
    if math.isnan(score.divergence):
        return False
    if len(earlier) < _FIRST_TRIALS:
        return True
    earlier = earlier[-_LAST_TRIALS:]
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
    asked = np.flatnonzero(~np.isnan(table[:, 0]))
    columns = list(table[asked].T)
    as_good = np.logical_and.reduce([one[None] <= one[:, None] for one in columns])
    # a row for each score: those that dominate it, and how many of them have no rank yet
    by = as_good & ~as_good.T
    dominators, unranked, rank = by.sum(1), np.ones(len(asked), dtype=bool), 0
    while unranked.any():
        front = unranked & (dominators == 0)
        ranks[asked[front]] = rank
        dominators -= by[:, front].sum(1)
        unranked &= ~front
        rank += 1
    return [int(one) for one in ranks]


class SeenStudy(Study):
    """A study as a sampler sees it: losses are settled, a pruned trial is complete with the loss it would have had.

    Samplers of Optuna's leave a pruned trial of two objectives out, or count it among the bad ones whatever it scored.
    """

    def __init__(self, study: Study) -> None:
        self.__dict__.update(study.__dict__)

    def told(self) -> list[FrozenTrial]:
        """The trials as they are, a pruned one is pruned, with settled losses."""
        return settled(super()._get_trials(deepcopy=False))

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        trials = settled(super()._get_trials(deepcopy, None, use_cache))
        expected = expected_losses(trials)
        seen = [
            _completed(trial, expected[i], trial.user_attrs[BYTES]) if i in expected else trial
            for i, trial in enumerate(trials)
        ]
        return [trial for trial in seen if states is None or trial.state in states]


def _completed(trial: FrozenTrial, loss: float, size_bytes: float) -> FrozenTrial:
    found = copy(trial)
    found.state = TrialState.COMPLETE
    found.values = [loss, size_bytes]
    return found


def expected_losses(trials: Sequence[FrozenTrial]) -> dict[int, float]:
    """What pruned trials would have come to, by their place in the list, at most 100.

    Nothing where no trial is complete, and nothing of trials without a score.
    """
    known = [standing_of(trial) for trial in trials]
    complete = [one for one in known if one is not None and one.loss is not None and _scored(one)]
    found: dict[int, float] = {}
    for rung in range(len(SURVIVAL)) if complete else ():
        ended = {
            i: one
            for i, one in enumerate(known)
            if one is not None and one.loss is None and len(one.divergences) == rung + 1 and _scored(one)
        }
        losses = expected(list(ended.values()), complete, rung) if ended else np.zeros(0)
        found |= dict(zip(ended, np.minimum(losses, 100).tolist(), strict=True))
    return found


def expected(asked: Sequence[Standing], complete: Sequence[Standing], rung: int) -> NDArray[np.float64]:
    """The losses that trials can be expected to have which reached a rung: from `complete` ones, by ridge regression.

    The divergences of the complete ones are all numbers.

    Of the loss's logarithm, on that of the divergence, how many sublayers are removed and that squared: how close a
    plan is, how much it keeps, and that too little is lost (decision 0016); and on the steps of healing. From 12
    complete trials on also on what plans are made of (decision 0019). Of two plans that are otherwise alike the closer
    one is never expected to be worse, be it closer than any before. NaN of trials whose divergence is none.
    """
    learnt = len(complete) >= LEARNT
    names = sorted(set.intersection(*(set(one.traits) for one in (*complete, *asked)))) if learnt else []
    table, wanted = _features(complete, rung, names), _features(asked, rung, names)
    losses = np.log([max(_LEAST_LOSS, _loss(one)) for one in complete])
    price, means = _PRICE if names else _FEW_PRICE, table.mean(0)
    closer, farther = ridge(table, losses, np.stack([means, means + np.eye(len(means))[0]]), price)
    if farther < closer:
        table[:, 0], wanted[:, 0] = 0, np.where(np.isfinite(wanted[:, 0]), 0, np.nan)
    # far from all that is known the line leads anywhere
    return np.exp(np.clip(ridge(table, losses, wanted, price), losses.min() - math.log(_BETTER), math.log(100)))


def _loss(standing: Standing) -> float:
    assert standing.loss is not None, "a complete trial has a loss"
    return standing.loss


def _scored(standing: Standing) -> bool:
    """Whether all divergences are numbers."""
    return all(map(math.isfinite, standing.divergences))


def _features(known: Sequence[Standing], rung: int, names: Sequence[str]) -> NDArray[np.float64]:
    """A row for each standing; `names` are traits. The first column is the logarithm of the divergence."""
    rows = [
        [
            math.log(max(_LEAST, one.divergences[rung])) if math.isfinite(one.divergences[rung]) else math.nan,
            one.removed,
            one.removed**2,
            one.heal_steps,
            *(one.traits[name] for name in names),
        ]
        for one in known
    ]
    return np.array(rows, dtype=float).reshape(len(known), 4 + len(names))


def ridge(
    known: NDArray[np.float64], values: NDArray[np.float64], asked: NDArray[np.float64], price: float
) -> NDArray[np.float64]:
    """Predictions for `asked` (n, features) by ridge regression of `values` on `known` (m, features), standardised.

    `price` is what a squared weight costs beside squared errors.
    """
    centre, scale = known.mean(0), known.std(0)
    scale[scale == 0] = 1
    features = (known - centre) / scale
    normal = features.T @ features + price * np.eye(features.shape[1])
    weights = np.linalg.solve(normal, features.T @ (values - values.mean()))
    found: NDArray[np.float64] = values.mean() + (asked - centre) / scale @ weights
    return found
