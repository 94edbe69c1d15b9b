"""What a plan would be worth, judged by what it is made of: a Gaussian process on the plans that were tried."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.spatial.distance import cdist

_LEAST = 1e-9
# No loss is taken for less than this share of the median.
_LEAST_SHARE = 0.05
# Of the length over which plans are alike, in units of their spread, and of the noise over what it is noise of.
_LENGTHS, _NOISES = (0.35, 0.5, 0.7, 1.0, 1.4, 2.0), (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
# Plans it looks at: as many of the best and of the last.
_MOST = 150


def heard_of(losses: Sequence[float]) -> list[int]:
    """Of many plans the places of those that are enough to judge by: the best and the last, in their order."""
    best = np.argsort(losses, kind="stable")[:_MOST].tolist()
    return sorted({*best, *range(max(0, len(losses) - _MOST), len(losses))})


def logs_of(losses: Sequence[float]) -> NDArray[np.float64]:
    """Logarithms of losses, none taken for less than a twentieth of the median: a chrF of 100 would be far from all."""
    found: NDArray[np.float64] = np.log(np.maximum(losses, max(_LEAST, _LEAST_SHARE * float(np.median(losses)))))
    return found


class Judge:
    """A Gaussian process of the logarithm of losses; length and noise have the largest marginal likelihood of a grid.

    Rasmussen and Williams 2006, sections 2.2 and 5.4.1. Of `known` (plans, traits) and their losses; time grows as the
    cube of how many there are (`heard_of`).
    """

    def __init__(self, known: Sequence[Sequence[float]], losses: Sequence[float]) -> None:
        table = np.array(known, dtype=float)
        logs = logs_of(losses)
        self._centre, self._mean, spread = table.mean(0), float(logs.mean()), table.std(0)
        self._scale = np.where(spread < _LEAST, 1.0, spread) * math.sqrt(table.shape[1])
        self._known = (table - self._centre) / self._scale
        self._rest = logs - self._mean
        distances = _squares(self._known, self._known)
        likenesses = {length: _likeness(distances, length) for length in _LENGTHS}
        self._length, self._noise = max(
            product(_LENGTHS, _NOISES), key=lambda one: self._likelihood(likenesses[one[0]], one[1])
        )
        self._factor = _factored(likenesses[self._length], self._noise)
        self._weights = cho_solve((self._factor, True), self._rest)
        self._variance = float(self._rest @ self._weights) / len(self._rest)

    def _likelihood(self, likeness: NDArray[np.float64], noise: float) -> float:
        """The logarithm of the marginal likelihood at its best variance, up to a constant."""
        factor = _factored(likeness, noise)
        white = solve_triangular(factor, self._rest, lower=True)
        variance = max(_LEAST**2, float(white @ white) / len(white))
        return -0.5 * len(white) * math.log(variance) - float(np.log(np.diag(factor)).sum())

    def expected(self, asked: Sequence[Sequence[float]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and deviation of the logarithm of the loss, without noise, of plans by their traits (plans, traits)."""
        table = (np.array(asked, dtype=float) - self._centre) / self._scale
        alike = _likeness(_squares(table, self._known), self._length)
        white = solve_triangular(self._factor, alike.T, lower=True)
        left = np.maximum(0.0, 1 - np.square(white).sum(0))
        return self._mean + alike @ self._weights, np.sqrt(self._variance * left)


def _squares(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = cdist(one, other, "sqeuclidean")
    return found


def _factored(likeness: NDArray[np.float64], noise: float) -> NDArray[np.float64]:
    found: NDArray[np.float64] = cholesky(likeness + noise * np.eye(len(likeness)), lower=True)
    return found


def _likeness(squares: NDArray[np.float64], length: float) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.exp(-0.5 * squares / length**2)
    return found
