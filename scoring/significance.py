"""Whether one system's score is really above another's, by two paired tests over segments.

The bootstrap (Koehn 2004) draws segments anew; approximate randomisation (Riezler and Maxwell 2005) swaps what the two
systems say of them. Both are drawn as sacrebleu draws them, from the same seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics.base import Metric

SAMPLES = 1000
TRIALS = 10000
SEED = 12345
# Of the interval, half at each end.
_OUTSIDE = 0.05
# Trials that tie with the lead count, though sums of floats tie but nearly.
_TIE = 1e-9
# Scores (systems) of sums of statistics over segments (systems, statistics).
_Scoring = Callable[[NDArray[np.float64]], NDArray[np.float64]]


@dataclass(frozen=True)
class Lead:
    """How far a score is above another, the 95 % percentile interval of that, and its p-values by both tests.

    `p` is the bootstrap's, `p_randomised` approximate randomisation's.
    """

    value: float
    low: float
    high: float
    p: float
    p_randomised: float


def lead(
    metric: Metric,
    ours: Sequence[str],
    theirs: Sequence[str],
    references: Sequence[str],
    *,
    samples: int = SAMPLES,
    trials: int = TRIALS,
    seed: int = SEED,
) -> Lead:
    """The lead of our translations over theirs of the same segments, each with one reference.

    Segments are drawn with replacement, the same ones for both. The bootstrap's p-value is the share of `samples` in
    which the systems are farther apart than in the mean of samples by at least the lead; randomisation's the share of
    `trials` in which two systems, each of either's translations by the toss of a coin, are at least the lead apart.
    Both are sacrebleu's, but that ties with the lead count, as in Riezler and Maxwell's test: equal systems have 1, not
    the least of all p-values, and by randomisation two that differ in a single segment have, too.
    """
    first, second = (_statistics(metric, system, references) for system in (ours, theirs))
    return _lead(partial(_scores, metric), first, second, samples=samples, trials=trials, seed=seed)


def lead_of_segments(
    ours: Sequence[float],
    theirs: Sequence[float],
    *,
    samples: int = SAMPLES,
    trials: int = TRIALS,
    seed: int = SEED,
) -> Lead:
    """`lead` where systems' scores are means of those of their segments, as COMET's are."""
    first, second = (np.column_stack([scores, np.ones(len(scores))]) for scores in (ours, theirs))
    return _lead(lambda sums: sums[:, 0] / sums[:, 1], first, second, samples=samples, trials=trials, seed=seed)


def _lead(
    scoring: _Scoring,
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    *,
    samples: int,
    trials: int,
    seed: int,
) -> Lead:
    """Of statistics of two systems, each (segments, statistics)."""
    assert first.shape == second.shape
    value = float((scoring(first.sum(0)[None]) - scoring(second.sum(0)[None]))[0])
    drawn = np.random.default_rng(seed).choice(len(first), size=(samples, len(first)), replace=True)
    leads = scoring(_drawn_sums(first, drawn)) - scoring(_drawn_sums(second, drawn))
    low, high = np.quantile(leads, [_OUTSIDE / 2, 1 - _OUTSIDE / 2])
    apart = np.abs(leads)
    p, p_randomised = _share(apart - apart.mean() >= abs(value)), _randomised(scoring, first, second, trials, seed)
    return Lead(value, float(low), float(high), p, p_randomised)


def _randomised(
    scoring: _Scoring, first: NDArray[np.float64], second: NDArray[np.float64], trials: int, seed: int
) -> float:
    """The p-value of the lead of the first system over the second."""
    value = scoring(first.sum(0)[None]) - scoring(second.sum(0)[None])
    swapped = np.random.default_rng(seed).integers(2, size=(trials, len(first)), dtype=bool)
    ours, theirs = swapped @ second + ~swapped @ first, ~swapped @ second + swapped @ first
    return _share(np.abs(scoring(ours) - scoring(theirs)) >= np.abs(value) * (1 - _TIE))


def _share(counted: NDArray[np.bool_]) -> float:
    """A p-value: what was observed counts as one more."""
    return (int(counted.sum()) + 1) / (len(counted) + 1)


def _drawn_sums(statistics: NDArray[np.float64], drawn: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sums over samples of segments, which `drawn` holds (samples, segments)."""
    return np.array([statistics[rows].sum(0) for rows in drawn])


def _statistics(metric: Metric, system: Sequence[str], references: Sequence[str]) -> NDArray[np.float64]:
    """What corpus scores are made of (segments, statistics)."""
    return np.array(metric._extract_corpus_statistics(system, [references]), dtype=float)


def _scores(metric: Metric, sums: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.array([metric._compute_score_from_stats(row.tolist()).score for row in sums])
