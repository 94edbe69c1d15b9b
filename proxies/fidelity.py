"""How well a cheap score puts plans in the order of the full evaluation: rank correlations with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau, spearmanr

# Plans are drawn with replacement so often; what is left out on either side of an interval.
_RESAMPLES = 1000
_TAIL = 0.025
_FEWEST = 4


@dataclass(frozen=True)
class Correlation:
    """A rank correlation and its 95 % percentile bootstrap interval (Efron and Tibshirani 1993, section 13.3).

    None where either score is the same for all plans.
    """

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Fidelity:
    """Spearman's and Kendall's correlations with the full evaluation over some plans, how many they are."""

    plans: int
    spearman: Correlation
    kendall: Correlation


def fidelity(cheap: Sequence[float], full: Sequence[float], seed: int) -> Fidelity:
    """Of cheap scores with full ones of the same plans; both are better the lower they are.

    Raises ValueError for fewer than four plans, of which nothing can be said.
    """
    scores = np.column_stack([cheap, full]).astype(float)
    _check(len(scores))
    rng = np.random.default_rng(seed)
    drawn = [scores[rng.integers(len(scores), size=len(scores))] for _ in range(_RESAMPLES)]
    return Fidelity(
        len(scores),
        _correlation(_spearman, [scores], drawn),
        _correlation(_kendall, [scores], drawn),
    )


def halves(each: Sequence[Sequence[float]], seed: int) -> Fidelity:
    """How one half of the utterances ranks plans beside the other, by the scores of `each` plan on each utterance.

    What a score of as many other utterances can be expected to reach at best: plans whose order depends on who is
    heard, no score ranks. The mean over random halves; intervals are over halves and plans.

    Raises ValueError for fewer than four plans.
    """
    scores = np.asarray(each, dtype=float)
    _check(len(scores))
    rng = np.random.default_rng(seed)
    middle = scores.shape[1] // 2

    def half() -> NDArray[np.float64]:
        order = rng.permutation(scores.shape[1])
        return np.column_stack([scores[:, part].mean(1) for part in (order[:middle], order[middle:])])

    split = [half() for _ in range(_RESAMPLES)]
    drawn = [one[rng.integers(len(scores), size=len(scores))] for one in split]
    return Fidelity(len(scores), _correlation(_spearman, split, drawn), _correlation(_kendall, split, drawn))


def best_quarter(full: Sequence[float]) -> list[int]:
    """Which plans are the best quarter by the full evaluation, four at least where there are as many."""
    count = max(_FEWEST, -(-len(full) // 4))
    return sorted(int(i) for i in np.argsort(full, kind="stable")[:count])


def _correlation(
    measure: Callable[[NDArray[np.float64]], float],
    whole: Sequence[NDArray[np.float64]],
    drawn: Sequence[NDArray[np.float64]],
) -> Correlation:
    """The mean over the `whole` pairs of scores; those in which all plans are equal say nothing and are left out."""
    of_whole, of_drawn = ([measure(one) for one in pairs if _differ(one)] for pairs in (whole, drawn))
    if not of_whole or not of_drawn:
        return Correlation(None, None, None)
    low, high = np.quantile(of_drawn, (_TAIL, 1 - _TAIL))
    return Correlation(float(np.mean(of_whole)), float(low), float(high))


def _check(plans: int) -> None:
    if plans < _FEWEST:
        raise ValueError(f"{plans} plans: rank correlations need at least {_FEWEST}")


def _differ(pairs: NDArray[np.float64]) -> bool:
    return all(len(np.unique(pairs[:, column])) > 1 for column in (0, 1))


def _spearman(pairs: NDArray[np.float64]) -> float:
    return float(spearmanr(pairs[:, 0], pairs[:, 1]).statistic)


def _kendall(pairs: NDArray[np.float64]) -> float:
    return float(kendalltau(pairs[:, 0], pairs[:, 1]).statistic)
