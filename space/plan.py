"""A plan: one complete point of the joint space, and its JSON form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from space.errors import UserError
from space.layout import Layout, Tower
from space.rates import NO_RATE, Coded, Packed, Rate, rate_named

TOWERS = ("encoder", "decoder")
TABLES = ("embedding", "lm_head", "projector", "convolutions")


@dataclass(frozen=True)
class Sublayer:
    """What stays of a sublayer: `kept` key/value heads or FFN channels (0 = the sublayer goes), stored at `rate`."""

    kept: int
    rate: Rate


REMOVED = Sublayer(0, NO_RATE)


@dataclass(frozen=True)
class Layer:
    """Attention and FFN of one layer; where both keep nothing the layer goes."""

    attention: Sublayer
    ffn: Sublayer


@dataclass(frozen=True)
class Heal:
    """How a pruned model is healed: `steps` steps with adapters of `rank`, or of all weights where it is 0.

    `rate` is the peak learning rate before quantisation over what is usual for such steps.
    """

    steps: int = 0
    rank: int = 0
    rate: float = 1.0

    def __str__(self) -> str:
        """Always of one width, so that healing changes no bytes."""
        return f"{self.steps:06d} {self.rank:03d} {self.rate:.1e}"


NO_HEAL = Heal()


@dataclass(frozen=True)
class Plan:
    """Everything that is done to a model. Layers stand in source order, removed ones included.

    `vocabulary` tokens stay. A model without an encoder has no layers there; a table the layout lacks is None.
    """

    encoder: tuple[Layer, ...]
    decoder: tuple[Layer, ...]
    vocabulary: int
    embedding: Rate
    lm_head: Rate | None
    projector: Rate | None
    convolutions: Rate | None
    heal: Heal

    def to_json(self) -> str:
        """Compact, since it counts: a layer is ``[heads, rate, channels, rate]``; healing has a fixed width."""
        towers = {
            name: [[x.attention.kept, str(x.attention.rate), x.ffn.kept, str(x.ffn.rate)] for x in getattr(self, name)]
            for name in TOWERS
        }
        tables = {name: str(rate) for name in TABLES if (rate := getattr(self, name)) is not None}
        plan = {**towers, "vocabulary": self.vocabulary, **tables, "heal": str(self.heal)}
        return json.dumps(plan, separators=(",", ":"))

    def layers(self, tower: Tower) -> tuple[Layer, ...]:
        return self.encoder if tower.name == "encoder" else self.decoder

    def rate(self, table: str) -> Rate:
        """The rate of a table the layout has."""
        found = getattr(self, table)
        assert isinstance(found, Packed | Coded), f"the plan has no {table}"
        return found


def plan_from_json(text: str) -> Plan:
    """Inverse of `Plan.to_json`. Raises UserError for anything that is no plan."""
    try:
        raw = json.loads(text)
        encoder, decoder = (tuple(_layer(*row) for row in raw[name]) for name in TOWERS)
        tables = {name: rate_named(raw[name]) if name in raw else None for name in TABLES}
        steps, rank, rate = raw["heal"].split()
        heal = Heal(int(steps), int(rank), float(rate))
        return plan_with(encoder, decoder, tables, vocabulary=int(raw["vocabulary"]), heal=heal)
    except (KeyError, TypeError, ValueError, AttributeError, UserError) as error:
        raise UserError(f"plan.json is damaged ({error}); copy the checkpoint again") from error


def plan_with(
    encoder: tuple[Layer, ...],
    decoder: tuple[Layer, ...],
    tables: Mapping[str, Rate | None],
    *,
    vocabulary: int,
    heal: Heal,
) -> Plan:
    """A plan from a mapping of table names to rates. Raises KeyError where there is no rate for the embedding."""
    embedding = tables["embedding"]
    if embedding is None:
        raise KeyError("embedding")
    others = {name: tables.get(name) for name in TABLES[1:]}
    return Plan(encoder, decoder, vocabulary, embedding, **others, heal=heal)


def _layer(heads: int, attention_rate: str, channels: int, ffn_rate: str) -> Layer:
    return Layer(Sublayer(int(heads), rate_named(attention_rate)), Sublayer(int(channels), rate_named(ffn_rate)))


def removed_sublayers(plan: Plan) -> int:
    """How many sublayers of both towers are gone."""
    return sum(not part.kept for layer in (*plan.encoder, *plan.decoder) for part in (layer.attention, layer.ffn))


def uniform_plan(layout: Layout, rate: Rate, heal: Heal = NO_HEAL) -> Plan:
    """Nothing pruned, everything at one rate."""
    stacks = {
        tower.name: (Layer(Sublayer(tower.kv_heads, rate), Sublayer(tower.ffn, rate)),) * tower.layers
        for tower in layout.towers
    }
    tables = dict.fromkeys(layout.tables, rate)
    return plan_with(stacks.get("encoder", ()), stacks["decoder"], tables, vocabulary=layout.vocabulary, heal=heal)
