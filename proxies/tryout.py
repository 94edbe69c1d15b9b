"""What every proxy scores, so that all have one contract: a plan put together, on the rows of a rung."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from compress.assembly import Assembled
from space.plan import Plan


@dataclass(frozen=True)
class Tryout:
    """A plan, unhealed, and the rung, 0 the first, whose utterances it is scored on."""

    plan: Plan
    candidate: Assembled
    rung: int


# A cheap score of a plan: the lower, the better. Proxies that look at weights alone do not ask for the rung.
Proxy = Callable[[Tryout], float]
