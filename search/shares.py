"""By which proxy trials are stopped, on how many utterances, and how many go on, where a study of proxies says it.

The default is the bundled model's (decision 0032). A few dozen plans cannot show that fewer healings would do: they can
show that these are too few (decision 0019). A share of 1 takes a rung out. The proxy may be another one (decision
0024), and so may the size of the first rung (decision 0027).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from search.gates import DEFAULT, SURVIVAL, Gate
from search.rungs import Score, promising

# From the default up, by how many heal in the end; the last ones let every trial go on.
LADDER = (SURVIVAL, (1.0, 1 / 6), (1.0, 1 / 4), (1 / 2, 1 / 2), (1.0, 1 / 2), (1.0, 1.0))
# Points of chrF that the best plan may lose by rungs on the mean: less than one healing's noise.
_MOST_LOST = 0.5
# Another gate than the default must take less than this share of its seconds: they differ by noise.
_CHEAPER = 0.9
# Orders that plans come in, and how often each plan comes.
_ORDERS, _TIMES = 20, 2


@dataclass(frozen=True)
class Ranked:
    """A plan's scores at the rungs, and the loss of its full evaluation."""

    rungs: tuple[Score, ...]
    loss: float


@dataclass(frozen=True)
class Cost:
    """Seconds of a proxy at each rung, each from the beginning, and of healing and the last rung behind."""

    rungs: tuple[float, ...]
    last: float

    def of(self, survival: Sequence[float]) -> float:
        """Of a trial on the mean, where these shares go on."""
        total, reach, before = 0.0, 1.0, 0.0
        for seconds, share in zip(self.rungs, survival, strict=True):
            total, reach, before = total + reach * max(0.0, seconds - before), reach * share, seconds
        return total + reach * self.last


def gate_for(seconds: Mapping[Gate, float]) -> Gate:
    """The gate with which a trial takes least, of such as hardly lose the best plan.

    One with the default's proxy and sizes is among them; another one is much cheaper.
    """
    default = next(gate for gate in seconds if gate == replace(DEFAULT, survival=gate.survival))
    cheapest = min(seconds, key=lambda gate: seconds[gate])
    return cheapest if seconds[cheapest] < _CHEAPER * seconds[default] else default


def shares_for(plans: Sequence[Ranked], seed: int) -> tuple[float, ...]:
    """The first shares of the ladder with which the best plan that gets to the end is hardly worse than the best.

    By the rungs' rule before they have learnt from complete trials.
    """
    return next((shares for shares in LADDER if lost(plans, shares, seed) <= _MOST_LOST), LADDER[-1])


def lost(plans: Sequence[Ranked], shares: Sequence[float], seed: int) -> float:
    """Points that the best plan which goes on from every rung is behind the best there is, on the mean of orders."""
    best = min(plan.loss for plan in plans)
    return fmean(_best_kept(plans, shares, random.Random(seed + order)) - best for order in range(_ORDERS))


def _best_kept(plans: Sequence[Ranked], shares: Sequence[float], rng: random.Random) -> float:
    earlier: list[list[Score]] = [[] for _ in shares]
    kept = []
    for plan in rng.sample(list(plans) * _TIMES, _TIMES * len(plans)):
        for score, before, share in zip(plan.rungs, earlier, shares, strict=True):
            goes_on = promising(score, before, share)
            before.append(score)
            if not goes_on:
                break
        else:
            kept.append(plan.loss)
    return min(kept, default=100.0)
