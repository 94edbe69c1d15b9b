"""A plan: one complete point of the joint space, and its JSON form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from space.errors import UserError
from space.layout import Layout, Tower


@dataclass(frozen=True, order=True)
class Packed:
    """Fixed-width storage: `bits` an entry, and for every `group` entries of a row or what is left, a 16-bit scale.

    16 bits means bf16 as it is, without groups (`group` is 0).
    """

    bits: int
    group: int

    def __str__(self) -> str:
        return "16" if self.bits == 16 else f"{self.bits}g{self.group}"


# Cheapest first; the order is that of the bytes.
RATES = (
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
    Packed(16, 0),
)
TOWERS = ("encoder", "decoder")
TABLES = ("embedding", "lm_head", "projector", "convolutions")
RATE_NAMES = tuple(str(rate) for rate in RATES)


def rate_named(name: str) -> Packed:
    """The rate a name such as ``4g64`` stands for. Raises UserError for another name."""
    if name not in RATE_NAMES:
        raise UserError(f"rate {name!r}: not one of {', '.join(RATE_NAMES)}")
    return RATES[RATE_NAMES.index(name)]


@dataclass(frozen=True)
class Sublayer:
    """What stays of a sublayer: `kept` key/value heads or FFN channels (0 = the sublayer goes), stored at `rate`."""

    kept: int
    rate: Packed


@dataclass(frozen=True)
class Layer:
    """Attention and FFN of one layer; where both keep nothing the layer goes."""

    attention: Sublayer
    ffn: Sublayer


@dataclass(frozen=True)
class Plan:
    """Everything that is done to a model. Layers stand in source order, removed ones included.

    `vocabulary` tokens stay. A model without an encoder has no layers there; a table the layout lacks is None.
    """

    encoder: tuple[Layer, ...]
    decoder: tuple[Layer, ...]
    vocabulary: int
    embedding: Packed
    lm_head: Packed | None
    projector: Packed | None
    convolutions: Packed | None
    heal_steps: int

    def to_json(self) -> str:
        """Compact, since it counts: a layer is ``[heads, rate, channels, rate]``; heal steps have a fixed width."""
        towers = {
            name: [[x.attention.kept, str(x.attention.rate), x.ffn.kept, str(x.ffn.rate)] for x in getattr(self, name)]
            for name in TOWERS
        }
        tables = {name: str(rate) for name in TABLES if (rate := getattr(self, name)) is not None}
        plan = {**towers, "vocabulary": self.vocabulary, **tables, "heal_steps": f"{self.heal_steps:06d}"}
        return json.dumps(plan, separators=(",", ":"))

    def layers(self, tower: Tower) -> tuple[Layer, ...]:
        return self.encoder if tower.name == "encoder" else self.decoder

    def rate(self, table: str) -> Packed:
        """The rate of a table the layout has."""
        found = getattr(self, table)
        assert isinstance(found, Packed), f"the plan has no {table}"
        return found


def plan_from_json(text: str) -> Plan:
    """Inverse of `Plan.to_json`. Raises UserError for anything that is no plan."""
    try:
        raw = json.loads(text)
        encoder, decoder = (tuple(_layer(*row) for row in raw[name]) for name in TOWERS)
        tables = {name: rate_named(raw[name]) if name in raw else None for name in TABLES}
        return plan_with(encoder, decoder, tables, vocabulary=int(raw["vocabulary"]), heal_steps=int(raw["heal_steps"]))
    except (KeyError, TypeError, ValueError, UserError) as error:
        raise UserError(f"plan.json is damaged ({error}); copy the checkpoint again") from error


def plan_with(
    encoder: tuple[Layer, ...],
    decoder: tuple[Layer, ...],
    tables: Mapping[str, Packed | None],
    *,
    vocabulary: int,
    heal_steps: int,
) -> Plan:
    """A plan from a mapping of table names to rates. Raises KeyError where there is no rate for the embedding."""
    embedding = tables["embedding"]
    if embedding is None:
        raise KeyError("embedding")
    others = {name: tables.get(name) for name in TABLES[1:]}
    return Plan(encoder, decoder, vocabulary, embedding, **others, heal_steps=heal_steps)


def _layer(heads: int, attention_rate: str, channels: int, ffn_rate: str) -> Layer:
    return Layer(Sublayer(int(heads), rate_named(attention_rate)), Sublayer(int(channels), rate_named(ffn_rate)))


def uniform_plan(layout: Layout, rate: Packed, heal_steps: int = 0) -> Plan:
    """Nothing pruned, everything at one rate."""
    stacks = {
        tower.name: (Layer(Sublayer(tower.kv_heads, rate), Sublayer(tower.ffn, rate)),) * tower.layers
        for tower in layout.towers
    }
    tables = dict.fromkeys(layout.tables, rate)
    return plan_with(
        stacks.get("encoder", ()), stacks["decoder"], tables, vocabulary=layout.vocabulary, heal_steps=heal_steps
    )
