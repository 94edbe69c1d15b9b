"""Values by key in memory, at most so many bytes of them; those go first that were not asked for the longest time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """Holds what was put or asked for last; a single value may take more than `most_bytes`."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes, self.size_bytes = most_bytes, 0
        self._held: OrderedDict[Key, tuple[Value, int]] = OrderedDict()

    def __contains__(self, key: Key) -> bool:
        return key in self._held

    def get(self, key: Key) -> Value | None:
        """What was put there; None where nothing was or it is gone."""
        if key not in self._held:
            return None
        self._held.move_to_end(key)
        return self._held[key][0]

    def put(self, key: Key, value: Value, size_bytes: int) -> None:
        """Keeps a value of so many bytes, in place of an earlier one of this key."""
        if key in self._held:
            self.size_bytes -= self._held.pop(key)[1]
        self._held[key] = value, size_bytes
        self.size_bytes += size_bytes
        while self.size_bytes > self.most_bytes and len(self._held) > 1:
            self.size_bytes -= self._held.popitem(last=False)[1][1]
