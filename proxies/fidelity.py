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
    if len(scores) < _FEWEST:
        raise ValueError(f"{len(scores)} plans: rank correlations need at least {_FEWEST}")
    rng = np.random.default_rng(seed)
    drawn = [scores[rng.integers(len(scores), size=len(scores))] for _ in range(_RESAMPLES)]
    return Fidelity(
        len(scores),
        _correlation(lambda x: float(spearmanr(x[:, 0], x[:, 1]).statistic), scores, drawn),
        _correlation(lambda x: float(kendalltau(x[:, 0], x[:, 1]).statistic), scores, drawn),
    )


def best_quarter(full: Sequence[float]) -> list[int]:
    """Which plans are the best quarter by the full evaluation, four at least where there are as many."""
    count = max(_FEWEST, -(-len(full) // 4))
    return sorted(int(i) for i in np.argsort(full, kind="stable")[:count])


def _correlation(
    measure: Callable[[NDArray[np.float64]], float],
    scores: NDArray[np.float64],
    drawn: Sequence[NDArray[np.float64]],
) -> Correlation:
    """Draws in which all plans are equal say nothing and are left out."""
    found = [measure(one) for one in drawn if len(np.unique(one[:, 0])) > 1 and len(np.unique(one[:, 1])) > 1]
    if len(np.unique(scores[:, 0])) < 2 or len(np.unique(scores[:, 1])) < 2 or not found:
        return Correlation(None, None, None)
    low, high = np.quantile(found, (_TAIL, 1 - _TAIL))
    return Correlation(measure(scores), float(low), float(high))
