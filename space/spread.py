"""Some of many, chosen evenly, and the items of several in turns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import TypeVar

_Item = TypeVar("_Item")


def spread(items: Sequence[_Item], count: int) -> list[_Item]:
    """So many of the items, evenly, the first and the last among them; all where there are fewer."""
    taken = min(count, len(items))
    return [items[round(i * (len(items) - 1) / max(1, taken - 1))] for i in range(taken)]


def in_turns(groups: Iterable[Iterable[_Item]]) -> list[_Item]:
    """The first item of each group, then the second of each, until all are there; None is no item."""
    return [item for turn in zip_longest(*groups) for item in turn if item is not None]
