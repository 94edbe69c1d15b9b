"""Tables of symbols' frequencies, as an entropy-coded stream has them in front, and the bytes of such a stream."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.modeling_tightfit import HEAD, TABLE_HEAD

# Bits by which the coder may exceed the entropy: its empty state becomes a place in the first symbol's table, whose
# frequencies have so many. And the share that its own rounding takes.
_FIRST_BITS, _ROUNDING = 24, 1e-5


@dataclass(frozen=True)
class Table:
    """Frequencies of symbols from `first` on, for columns up to exponent `last`."""

    last: int
    first: int
    counts: NDArray[np.int64]

    @property
    def codes(self) -> NDArray[np.uint8]:
        return _frequency_codes(self.counts)

    def bits(self) -> float:
        """Bits of head, table and symbols."""
        frequencies = _frequencies(self.codes)
        there = self.counts > 0
        # the coder rounds probabilities to 24 bits, and what is not there has the least of them
        chances = frequencies[there] / frequencies.sum() * (1 - (~there).sum() * 2.0**-_FIRST_BITS)
        symbols = -(self.counts[there] * np.log2(chances)).sum()
        return 8 * (struct.calcsize(TABLE_HEAD) + len(self.counts)) + float(symbols)


def _frequency_codes(counts: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Eight times each count, rounded to four bits behind the leading one: see `table_model`."""
    wide = 8 * counts.astype(np.int64)
    exponents = np.maximum(0, np.floor(np.log2(np.maximum(wide, 1))).astype(np.int64) - 3)
    mantissas = np.round(wide / (1 << exponents)).astype(np.int64)
    exponents, mantissas = np.where(mantissas == 16, exponents + 1, exponents), np.where(mantissas == 16, 8, mantissas)
    codes = (exponents << 3) + (mantissas - 8)
    # a count of 1 would be the code of none
    return np.where(counts > 0, np.maximum(codes, 1), 0).astype(np.uint8)


def _frequencies(codes: NDArray[np.uint8]) -> NDArray[np.float64]:
    wide = codes.astype(np.int64)
    return np.where(codes > 0, (8 + (wide & 7)) * 2.0 ** (wide >> 3), 0.0)


def table_of(values: NDArray[np.int32], last: int = 0) -> Table:
    """Of what some values say."""
    values = values.astype(np.int64)
    first = int(values.min())
    return table_counted(np.bincount(values - first), first, last)


def table_counted(counts: NDArray[np.int64], first: int, last: int) -> Table:
    """Of counts of symbols from `first` on, some of which are there; the coder wants two symbols at least."""
    there = np.flatnonzero(counts)
    found = counts[there[0] : there[-1] + 1]
    return Table(last, first + int(there[0]), found if len(found) > 1 else np.append(found, 0))


def merged(one: Table, other: Table) -> Table:
    """The table of what both count."""
    first = min(one.first, other.first)
    end = max(one.first + len(one.counts), other.first + len(other.counts))
    counts = np.zeros(end - first, dtype=np.int64)
    for table in (one, other):
        counts[table.first - first :][: len(table.counts)] += table.counts
    return Table(max(one.last, other.last), first, counts)


def stream_bytes(tables: Sequence[Table]) -> int:
    """An upper bound of the bytes of a stream with these tables."""
    heads = sum(map(_table_bytes, tables))
    entropy = sum(table.bits() for table in tables) - 8 * heads
    words = math.ceil((entropy * (1 + _ROUNDING) + _FIRST_BITS) / 32)
    return struct.calcsize(HEAD) + heads + 4 * words


def _table_bytes(table: Table) -> int:
    return struct.calcsize(TABLE_HEAD) + len(table.counts)
