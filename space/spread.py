"""Some of many, chosen evenly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

_Item = TypeVar("_Item")


def spread(items: Sequence[_Item], count: int) -> list[_Item]:
    """So many of the items, evenly, the first and the last among them; all where there are fewer."""
    taken = min(count, len(items))
    return [items[round(i * (len(items) - 1) / max(1, taken - 1))] for i in range(taken)]
