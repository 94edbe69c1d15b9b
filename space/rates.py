"""Rates: how the entries of a matrix are stored, and what they cost."""

from __future__ import annotations

import re
from dataclasses import dataclass

from space.errors import UserError


@dataclass(frozen=True, order=True)
class Packed:
    """Fixed-width storage: `bits` an entry, and for every `group` entries of a row or what is left, a 16-bit scale.

    16 bits means bf16 as it is, without groups (`group` is 0).
    """

    bits: int
    group: int

    def __str__(self) -> str:
        return "16" if self.bits == 16 else f"{self.bits}g{self.group}"


@dataclass(frozen=True, order=True)
class Coded:
    """Entropy-coded storage: at most `bits` an entry, everything included; the quantiser's step is whatever fills them.

    Bits have at most four decimals.
    """

    bits: float

    def __str__(self) -> str:
        return f"c{round(self.bits, 4):g}"


Rate = Packed | Coded

WHOLE = Packed(16, 0)
PACKED_RATES = (
    Packed(2, 128),
    Packed(2, 64),
    Packed(2, 32),
    Packed(3, 128),
    Packed(3, 64),
    Packed(4, 128),
    Packed(4, 64),
    Packed(5, 64),
    Packed(6, 64),
    Packed(8, 64),
)
CODED_RATES = tuple(
    Coded(bits) for bits in (0.7, 0.85, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.3, 2.6, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0)
)
# The ladders a search may choose from, cheapest first: the order is that of the bytes.
LADDERS: dict[str, tuple[Rate, ...]] = {"coded": (*CODED_RATES, WHOLE), "packed": (*PACKED_RATES, WHOLE)}
# What a removed sublayer is stored at, so that one model is one plan.
NO_RATE: Rate = CODED_RATES[0]
MOST_CODED_BITS = 12.0
_PACKED_BITS = (2, 3, 4, 5, 6, 8)
_NAME = re.compile(r"16|c(?P<coded>\d{1,2}(\.\d{1,4})?)|(?P<bits>[234568])g(?P<group>32|64|128)")


def rate_named(name: str) -> Rate:
    """The rate a name such as ``4g64``, ``c1.6`` or ``16`` stands for. Raises UserError for another name."""
    match = _NAME.fullmatch(name)
    if match is not None and name == "16":
        return WHOLE
    if match is not None and match["bits"]:
        return Packed(int(match["bits"]), int(match["group"]))
    if match is not None and 0 < float(match["coded"]) <= MOST_CODED_BITS:
        return Coded(float(match["coded"]))
    raise UserError(
        f"rate {name!r}: not one of 16, c0.1 to c{MOST_CODED_BITS:g} (coded bits an entry), or bits and group such as "
        f"4g64 (bits {', '.join(map(str, _PACKED_BITS))}; groups 32, 64, 128)"
    )


def uniform_rates(rates: tuple[Rate, ...]) -> tuple[Rate, ...]:
    """The rates of a ladder that uniform plans are tried at, cheapest first; packed ones of one group."""
    return tuple(rate for rate in rates if isinstance(rate, Coded) or (rate.bits in _PACKED_BITS and rate.group == 64))
