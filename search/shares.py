"""How many trials go on from each rung, where a study of proxies says that the default would lose the best.

The default's shares are the bundled model's (decision 0018). A few dozen plans cannot show that stricter ones would do:
they can show that these are too strict (decision 0019).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from search.rungs import SURVIVAL, Score, promising

# From the default up; the last ones let every trial go on.
LADDER = (SURVIVAL, (1 / 2, 1 / 4), (1 / 2, 1 / 2), (1.0, 1 / 4), (1.0, 1 / 2), (1.0, 1.0))
# Points of chrF that the best plan may lose by rungs on the mean: less than one healing's noise.
_MOST_LOST = 0.5
# Orders that plans come in, and how often each plan comes.
_ORDERS, _TIMES = 20, 2


@dataclass(frozen=True)
class Ranked:
    """A plan's scores at the rungs, and the loss of its full evaluation."""

    rungs: tuple[Score, ...]
    loss: float


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
