"""Whether one system's score is really above another's: the paired bootstrap over segments (Koehn 2004)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics.base import Metric

SAMPLES = 1000
# Of the interval, half at each end.
_OUTSIDE = 0.05


@dataclass(frozen=True)
class Lead:
    """How far a score is above another, the 95 % percentile interval of that, and its p-value."""

    value: float
    low: float
    high: float
    p: float


def lead(
    metric: Metric,
    ours: Sequence[str],
    theirs: Sequence[str],
    references: Sequence[str],
    *,
    samples: int = SAMPLES,
    seed: int = 12345,
) -> Lead:
    """The lead of our translations over theirs of the same segments, each with one reference.

    Segments are drawn with replacement, the same ones for both. The p-value is sacrebleu's, as the seed is, but 1 for
    equal systems: the share of samples in which the systems are farther apart than in the mean of samples by at least
    the lead.
    """
    drawn = np.random.default_rng(seed).choice(len(references), size=(samples, len(references)), replace=True)
    first, second = (_statistics(metric, system, references) for system in (ours, theirs))
    everything = np.arange(len(references))[None]
    value = float((_scores(metric, first, everything) - _scores(metric, second, everything))[0])
    leads = _scores(metric, first, drawn) - _scores(metric, second, drawn)
    low, high = np.quantile(leads, [_OUTSIDE / 2, 1 - _OUTSIDE / 2])
    apart = np.abs(leads)
    farther = int((apart - apart.mean() >= abs(value)).sum())
    return Lead(value, float(low), float(high), (farther + 1) / (samples + 1))


def _statistics(metric: Metric, system: Sequence[str], references: Sequence[str]) -> NDArray[np.float64]:
    """What corpus scores are made of (segments, statistics)."""
    return np.array(metric._extract_corpus_statistics(system, [references]), dtype=float)


def _scores(metric: Metric, statistics: NDArray[np.float64], drawn: NDArray[np.int64]) -> NDArray[np.float64]:
    """Corpus scores of samples of segments (samples, segments)."""
    return np.array([metric._compute_score_from_stats(statistics[rows].sum(0).tolist()).score for rows in drawn])
