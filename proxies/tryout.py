"""What proxies score that look at weights alone: a plan put together."""

from __future__ import annotations

from dataclasses import dataclass

from compress.assembly import Assembled
from space.plan import Plan


@dataclass(frozen=True)
class Tryout:
    """A plan, unhealed, and its candidate."""

    plan: Plan
    candidate: Assembled
