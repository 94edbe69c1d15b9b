"""Size bins of the task, scaled to the source model, and the bytes a plan may take."""

from __future__ import annotations

import re
from dataclasses import dataclass

from space.errors import UserError

# Tensor bytes of Qwen2-Audio-7B in bf16: 8,397,094,912 parameters. The bins were made for this model.
REFERENCE_BYTES = 16_794_189_824

# Lower (reached) and upper (not reached) bound in bytes; MB and GB are decimal (IWSLT 2025, "Evaluation").
_BINS = {
    1: (2_000_000_000, 4_000_000_000),
    2: (1_000_000_000, 2_000_000_000),
    3: (500_000_000, 1_000_000_000),
    4: (200_000_000, 500_000_000),
    5: (0, 200_000_000),
}
BIN_NUMBERS = tuple(_BINS)
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


@dataclass(frozen=True)
class SizeRange:
    """Bytes a checkpoint folder may take: `least_bytes` <= size < `bound_bytes`."""

    name: str
    least_bytes: int
    bound_bytes: int

    def holds(self, size_bytes: int) -> bool:
        return self.least_bytes <= size_bytes < self.bound_bytes


def bin_range(number: int, source_bytes: int) -> SizeRange:
    """The task's bin for a source model of `source_bytes` tensor bytes.

    Bounds scale with the source, so that bin 3 asks for the same ratio of every model (Qwen2-Audio-7B: factor 1).
    Raises UserError for a number that is no bin.
    """
    if number not in _BINS:
        raise UserError(f"--bin {number}: there is no such bin; choose one of 1, 2, 3, 4, 5")
    least, bound = (-(-edge * source_bytes // REFERENCE_BYTES) for edge in _BINS[number])
    return SizeRange(f"bin {number}", least, bound)


def max_size_range(text: str) -> SizeRange:
    """A range from 0 to a size such as ``900kB``, ``1.5GB`` or ``300MiB``; the bound itself is not reached."""
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", text)
    if match is None or match[2].lower() not in _UNITS:
        raise UserError(f"--max-size {text!r}: not a size; write for instance 900kB, 1.5GB or 300MiB")
    bound = int(float(match[1]) * _UNITS[match[2].lower()])
    if bound < 1:
        raise UserError(f"--max-size {text!r}: nothing is that small; write for instance 900kB")
    return SizeRange(f"under {text.strip()}", 0, bound)


def bin_of(size_bytes: int, source_bytes: int) -> int | None:
    """The number of the bin a size falls in, or None where it is too large for every bin."""
    return next((number for number in _BINS if bin_range(number, source_bytes).holds(size_bytes)), None)


def format_bytes(size_bytes: int) -> str:
    """Decimal units, three digits: 999,995 -> ``1.00 MB``."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size_bytes >= factor * 0.9995:
            return (
                f"{size_bytes / factor:.3g} {unit}"
                if size_bytes / factor >= 99.95
                else f"{size_bytes / factor:.2f} {unit}"
            )
    return f"{size_bytes} B"
