"""Size bins of the task, scaled to the source model, and the bytes a plan may take."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from itertools import pairwise

from space.errors import UserError

# Tensor bytes of Qwen2-Audio-7B in bf16: 8,397,094,912 parameters. The bins were made for this model.
REFERENCE_BYTES = 16_794_189_824

# Lower (reached) and upper (not reached) bound in MB (IWSLT 2025, "Evaluation").
_BINS = {1: (2_000, 4_000), 2: (1_000, 2_000), 3: (500, 1_000), 4: (200, 500), 5: (0, 200)}
BIN_NUMBERS = tuple(_BINS)
# Powers of a kilo; those with an i are binary whatever the units.
_POWERS = {"": 0, "b": 0, "kb": 1, "mb": 2, "gb": 3, "kib": 1, "mib": 2, "gib": 3}


@dataclass(frozen=True)
class Units:
    """How sizes are read and printed: `binary` makes a kB 1,024 bytes. The task page does not say which it means."""

    binary: bool = False

    @property
    def kilo(self) -> int:
        return 1024 if self.binary else 1000

    @property
    def other(self) -> Units:
        return Units(binary=not self.binary)

    def __str__(self) -> str:
        return "binary" if self.binary else "decimal"


DECIMAL, BINARY = Units(), Units(binary=True)
UNITS = {str(units): units for units in (DECIMAL, BINARY)}


@dataclass(frozen=True)
class SizeRange:
    """Bytes a checkpoint folder may take: `least_bytes` <= size < `bound_bytes`."""

    name: str
    least_bytes: int
    bound_bytes: int
    units: Units = DECIMAL

    def __str__(self) -> str:
        """As ``bin 3: 500 MB to 1.00 GB``."""
        least, bound = (format_bytes(edge, self.units) for edge in (self.least_bytes, self.bound_bytes))
        return f"{self.name}: {least} to {bound}"

    def holds(self, size_bytes: int) -> bool:
        return self.least_bytes <= size_bytes < self.bound_bytes


def bin_range(number: int, source_bytes: int, units: Units = DECIMAL) -> SizeRange:
    """The task's bin for a source model of `source_bytes` tensor bytes.

    Bounds scale with the source, so that bin 3 asks for the same ratio of every model (Qwen2-Audio-7B: factor 1).
    In binary units a MB is 2^20 bytes and a GB 2^30. Raises UserError for a number that is no bin.
    """
    if number not in _BINS:
        raise UserError(f"--bin {number}: there is no such bin; choose one of 1, 2, 3, 4, 5")
    least, bound = (-(-_edge_bytes(edge, units) * source_bytes // REFERENCE_BYTES) for edge in _BINS[number])
    return SizeRange(f"bin {number}", least, bound, units)


def all_ranges(source_bytes: int, units: Units = DECIMAL) -> tuple[SizeRange, ...]:
    """Every bin and, between the bounds of two, a range to their geometric mean; the smallest bound first."""
    bins = [bin_range(number, source_bytes, units) for number in reversed(BIN_NUMBERS)]
    found = [bins[0]]
    for smaller, larger in pairwise(bins):
        between = math.isqrt(smaller.bound_bytes * larger.bound_bytes)
        name = f"under {format_bytes(between, units)}"
        found += [SizeRange(name, larger.least_bytes, between, units), larger]
    return tuple(found)


def _edge_bytes(megabytes: int, units: Units) -> int:
    """A thousand megabytes are one gigabyte, which is 2^30 bytes in binary units."""
    gigabytes, rest = divmod(megabytes, 1000)
    return gigabytes * units.kilo**3 + rest * units.kilo**2


def max_size_range(text: str, units: Units = DECIMAL) -> SizeRange:
    """A range from 0 to a size such as ``900kB``, ``1.5GB`` or ``300MiB``; the bound itself is not reached.

    Raises UserError for anything else.
    """
    return SizeRange(f"under {text.strip()}", 0, bytes_of(text, "--max-size", units), units)


def bytes_of(text: str, option: str, units: Units = DECIMAL) -> int:
    """The bytes of a size such as ``900kB``, at least 1. Raises UserError for anything else given to `option`."""
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", text)
    if match is None or match[2].lower() not in _POWERS:
        raise UserError(f"{option} {text!r}: not a size; write for instance 900kB, 1.5GB or 300MiB")
    suffix = match[2].lower()
    found = int(float(match[1]) * (BINARY if "i" in suffix else units).kilo ** _POWERS[suffix])
    if found < 1:
        raise UserError(f"{option} {text!r}: nothing is that small; write for instance 900kB")
    return found


def bin_of(size_bytes: int, source_bytes: int, units: Units = DECIMAL) -> int | None:
    """The number of the bin a size falls in, or None where it is too large for every bin."""
    return next((number for number in _BINS if bin_range(number, source_bytes, units).holds(size_bytes)), None)


def format_bytes(size_bytes: int, units: Units = DECIMAL) -> str:
    """Three digits: 999,995 -> ``1.00 MB``, in binary units ``977 KiB``."""
    suffixes = ("KiB", "MiB", "GiB") if units.binary else ("kB", "MB", "GB")
    for power in (3, 2, 1):
        amount = size_bytes / units.kilo**power
        if amount >= 0.9995:
            return f"{amount:.0f} {suffixes[power - 1]}" if amount >= 99.95 else f"{amount:.2f} {suffixes[power - 1]}"
    return f"{size_bytes} B"
