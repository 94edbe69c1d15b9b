"""Every byte of a checkpoint folder, counted once and before any weight is touched.

A checkpoint holds one ``model.safetensors`` with one U8 tensor a unit (a sublayer, a table, the final norms), the plan,
and fixed files (config, tokenizer, processor) whose bytes depend on nothing of the plan but its vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from space.layout import Layout, Linear
from space.plan import Plan, Sublayer
from space.rates import WHOLE, Coded, Rate

# What a coded matrix may take beyond its rate: head of the stream, tables of symbols.
CODED_FRAME_BYTES = 48
# One over the share by which a coded matrix may be larger than its rate says, where others are smaller.
_LARGER = 16
# Bytes of config, tokenizer and processor files by the number of tokens that stay.
FixedBytes = Callable[[int], int]


@dataclass(frozen=True)
class Unit:
    """What is stored as one tensor: matrices at one rate, then their biases and `norm_parameters` in 16 bits."""

    name: str
    linears: tuple[Linear, ...]
    rate: Rate
    norm_parameters: int = 0

    @property
    def parameters(self) -> int:
        return sum(linear.parameters for linear in self.linears) + self.norm_parameters


def units(layout: Layout, plan: Plan) -> Iterator[Unit]:
    """The units of a plan in the order of the model; what is removed yields none."""

    def table(name: str) -> Unit:
        return Unit(name, layout.table(name, plan.vocabulary), plan.rate(name))

    if "convolutions" in layout.tables:
        yield table("convolutions")
    for tower in layout.towers:
        for index, layer in enumerate(plan.layers(tower)):
            if layer.attention.kept:
                linears = tower.attention(layer.attention.kept)
                yield Unit(f"{tower.name}.{index}.attention", linears, layer.attention.rate, tower.norm_parameters)
            if layer.ffn.kept:
                linears = tower.feed_forward(layer.ffn.kept)
                yield Unit(f"{tower.name}.{index}.ffn", linears, layer.ffn.rate, tower.norm_parameters)
    yield from (table(name) for name in layout.tables if name != "convolutions")
    yield Unit("norms", (), WHOLE, layout.final_norms)


def linear_bytes(linear: Linear, rate: Rate) -> int:
    """Bytes of a matrix without its bias: entries and scales; where it is coded the most its rate says."""
    entries = linear.rows * linear.columns
    if isinstance(rate, Coded):
        return CODED_FRAME_BYTES + int(entries * rate.bits / 8)
    if rate.bits == 16:
        return 2 * entries
    return -(-entries * rate.bits // 8) + 2 * linear.rows * -(-linear.columns // rate.group)


@lru_cache(maxsize=65_536)
def unit_bytes(unit: Unit) -> int:
    """Bytes of a unit's tensor; the most it may take where its rate is a coded one."""
    matrices = sum(linear_bytes(linear, unit.rate) for linear in unit.linears)
    biases = sum(linear.rows for linear in unit.linears if linear.bias)
    return matrices + 2 * (biases + unit.norm_parameters)


def larger_bytes(rate_bytes: int) -> int:
    """The most a coded matrix takes whose rate says `rate_bytes`, where others take less."""
    return rate_bytes + rate_bytes // _LARGER


def most_unit_bytes(unit: Unit) -> int:
    """The most a unit takes where others take less: all units together take at most what `unit_bytes` says."""
    return larger_bytes(unit_bytes(unit)) if isinstance(unit.rate, Coded) else unit_bytes(unit)


def larger_header_bytes(found: Sequence[Unit]) -> int:
    """Bytes by which a header may be longer where some units are larger than their rate says."""
    most = header_bytes({unit.name: most_unit_bytes(unit) for unit in found})
    return most - header_bytes({unit.name: unit_bytes(unit) for unit in found})


def header_bytes(sizes: dict[str, int]) -> int:
    """Bytes before the first tensor in a safetensors file of U8 vectors: 8 for the length, JSON padded to 8."""
    header, offset = {}, 0
    for name in sorted(sizes):
        header[name] = {"dtype": "U8", "shape": [sizes[name]], "data_offsets": [offset, offset + sizes[name]]}
        offset += sizes[name]
    length = len(json.dumps(header, separators=(",", ":")).encode())
    return 8 + -(-length // 8) * 8


# The length, the braces, and the white space that fills up to a multiple of 8.
HEADER_FRAME_BYTES = 8 + 2 + 7


def header_entry_bytes(name: str, size_bytes: int, largest_offset: int) -> int:
    """The most bytes a unit's entry takes in a header whose offsets reach `largest_offset`."""
    entry = {"dtype": "U8", "shape": [size_bytes], "data_offsets": [largest_offset, largest_offset]}
    return len(json.dumps({name: entry}, separators=(",", ":"))) - len("{}") + len(",")


def plan_entry_bytes(option: Sublayer | Rate) -> int:
    """What of a plan's JSON depends on a sublayer's or a table's option."""
    return len(f"{option.kept}{option.rate}") if isinstance(option, Sublayer) else len(str(option))


@dataclass(frozen=True)
class Size:
    """Bytes of a checkpoint folder by part."""

    by_unit: dict[str, int]
    header: int
    plan: int
    fixed: int

    @property
    def total(self) -> int:
        return sum(self.by_unit.values()) + self.header + self.plan + self.fixed


def plan_size(layout: Layout, plan: Plan, fixed_bytes: FixedBytes) -> Size:
    """What a plan weighs on disk; `fixed_bytes` gives the bytes of config, tokenizer and processor files."""
    by_unit = {unit.name: unit_bytes(unit) for unit in units(layout, plan)}
    return Size(by_unit, header_bytes(by_unit), len(plan.to_json().encode()), fixed_bytes(plan.vocabulary))


def tensor_bytes(by_unit: Mapping[str, int]) -> dict[str, int]:
    """Bytes by part of the model: tables, norms, attention and FFN of each tower."""
    parts: dict[str, int] = {}
    for name, unit in by_unit.items():
        tower, _, rest = name.partition(".")
        part = f"{tower} {rest.split('.')[-1]}" if rest else tower
        parts[part] = parts.get(part, 0) + unit
    return parts


def part_bytes(size: Size) -> dict[str, int]:
    """Bytes of a checkpoint by part: those of its tensors, header, plan and files."""
    return tensor_bytes(size.by_unit) | {"header": size.header, "plan": size.plan, "files": size.fixed}


def plan_parameters(layout: Layout, plan: Plan) -> int:
    """Parameters the compressed model has."""
    return sum(unit.parameters for unit in units(layout, plan))
