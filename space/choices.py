"""A plan as choices: one option for each sublayer, for each table and for the vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

from space.layout import Layout, Tower
from space.plan import NO_HEAL, REMOVED, Heal, Layer, Plan, Sublayer, plan_with
from space.rates import Coded, Packed, Rate

# What is chosen: heads or channels with a rate, a table's rate, or how many tokens stay.
Option = Sublayer | Rate | int
PARTS = ("attention", "ffn")
VOCABULARY = "vocabulary"
# FFN widths are searched in sixteenths of the source's.
WIDTH_STEPS = 16


def width_of(step: int, ffn: int) -> int:
    """Channels of `step` sixteenths of `ffn`."""
    return step * ffn // WIDTH_STEPS


def whole_size(tower: Tower, part: str) -> int:
    """Key/value heads or FFN channels of the source."""
    return tower.kv_heads if part == "attention" else tower.ffn


def sizes(tower: Tower, part: str) -> list[int]:
    """What may stay of a sublayer, ascending from 0: every number of heads, every sixteenth of the channels."""
    if part == "attention":
        return list(range(tower.kv_heads + 1))
    return sorted({width_of(step, tower.ffn) for step in range(WIDTH_STEPS + 1)})


def sublayer(kept: int, rate: Rate) -> Sublayer:
    """A removed sublayer has one rate whatever is asked for, so that one model is one plan."""
    return Sublayer(kept, rate) if kept else REMOVED


def place(tower: str, index: int, part: str) -> str:
    """The name of a sublayer's choice, which is its unit's name too."""
    return f"{tower}.{index}.{part}"


def is_hearing(name: str) -> bool:
    """Whether a choice is about an attention of the decoder, by which alone the input reaches the output."""
    return name.startswith("decoder.") and name.endswith(".attention")


@lru_cache(maxsize=8)
def choices(layout: Layout) -> Mapping[str, tuple[Option, ...]]:
    """Every choice of a layout by name with its options: sublayers in model order, tables, the vocabulary."""
    found: dict[str, tuple[Option, ...]] = {}
    for tower in layout.towers:
        options = {
            part: (REMOVED, *(Sublayer(kept, rate) for kept in sizes(tower, part)[1:] for rate in layout.rates))
            for part in PARTS
        }
        for index in range(tower.layers):
            found |= {place(tower.name, index, part): options[part] for part in PARTS}
    found |= dict.fromkeys(layout.tables, layout.rates)
    return MappingProxyType(found | {VOCABULARY: layout.vocabulary_sizes})


def plan_of(layout: Layout, chosen: Mapping[str, Option], heal: Heal = NO_HEAL) -> Plan:
    """The plan that takes an option of every choice."""

    def part(tower: Tower, index: int, name: str) -> Sublayer:
        option = chosen[place(tower.name, index, name)]
        assert isinstance(option, Sublayer)
        return option

    stacks = {
        tower.name: tuple(
            Layer(part(tower, index, "attention"), part(tower, index, "ffn")) for index in range(tower.layers)
        )
        for tower in layout.towers
    }
    tables = {name: option for name in layout.tables if isinstance(option := chosen[name], Packed | Coded)}
    vocabulary = chosen[VOCABULARY]
    assert isinstance(vocabulary, int)
    return plan_with(stacks.get("encoder", ()), stacks["decoder"], tables, vocabulary=vocabulary, heal=heal)


def choices_of(layout: Layout, plan: Plan) -> dict[str, Option]:
    """Inverse of `plan_of`: the option a plan takes of every choice."""
    found: dict[str, Option] = {}
    for tower in layout.towers:
        for index, layer in enumerate(plan.layers(tower)):
            found |= {place(tower.name, index, part): getattr(layer, part) for part in PARTS}
    return found | {name: plan.rate(name) for name in layout.tables} | {VOCABULARY: plan.vocabulary}


def hears(plan: Plan) -> bool:
    """Whether the decoder keeps any attention: without it nothing of the input reaches the output."""
    return any(layer.attention.kept for layer in plan.decoder)
