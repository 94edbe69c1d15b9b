"""Plans as Optuna parameters, one pure function each way, and the repair that puts any plan into a size range."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from space.bins import SizeRange, format_bytes
from space.errors import UserError
from space.layout import Layout, Tower
from space.plan import RATE_NAMES, RATES, TABLES, TOWERS, Layer, Plan, Sublayer, rate_named
from space.size import plan_size

# FFN widths are searched in sixteenths of the source's.
WIDTH_STEPS = 16
HEAL_STEPS = (0, 8, 16, 24)


def width_of(step: int, ffn: int) -> int:
    """Channels of `step` sixteenths of `ffn`."""
    return step * ffn // WIDTH_STEPS


def distributions(layout: Layout) -> dict[str, BaseDistribution]:
    """The joint space: every name and range of `encode`'s parameters."""
    space: dict[str, BaseDistribution] = {}
    rates = CategoricalDistribution(RATE_NAMES)
    for tower in (layout.encoder, layout.decoder):
        for index in range(tower.layers):
            space[f"{tower.name}.{index}.heads"] = IntDistribution(0, tower.kv_heads)
            space[f"{tower.name}.{index}.attention_rate"] = rates
            space[f"{tower.name}.{index}.width"] = IntDistribution(0, WIDTH_STEPS)
            space[f"{tower.name}.{index}.ffn_rate"] = rates
    for table in TABLES:
        space[f"{table}.rate"] = rates
    space["heal_steps"] = CategoricalDistribution(HEAL_STEPS)
    return space


def decode(params: Mapping[str, Any], layout: Layout) -> Plan:
    """The plan that a complete set of parameters stands for."""

    def layers(tower: Tower) -> tuple[Layer, ...]:
        return tuple(
            Layer(
                _sublayer(int(params[f"{tower.name}.{i}.heads"]), params[f"{tower.name}.{i}.attention_rate"]),
                _sublayer(
                    width_of(int(params[f"{tower.name}.{i}.width"]), tower.ffn), params[f"{tower.name}.{i}.ffn_rate"]
                ),
            )
            for i in range(tower.layers)
        )

    tables = {table: rate_named(params[f"{table}.rate"]) for table in TABLES}
    return Plan(layers(layout.encoder), layers(layout.decoder), **tables, heal_steps=int(params["heal_steps"]))


def encode(plan: Plan, layout: Layout) -> dict[str, Any]:
    """Inverse of `decode` for plans whose FFN widths are whole sixteenths."""
    params: dict[str, Any] = {}
    for tower in (layout.encoder, layout.decoder):
        steps = {width_of(step, tower.ffn): step for step in range(WIDTH_STEPS + 1)}
        for index, layer in enumerate(plan.layers(tower)):
            params[f"{tower.name}.{index}.heads"] = layer.attention.kept
            params[f"{tower.name}.{index}.attention_rate"] = str(layer.attention.rate)
            params[f"{tower.name}.{index}.width"] = steps[layer.ffn.kept]
            params[f"{tower.name}.{index}.ffn_rate"] = str(layer.ffn.rate)
    for table in TABLES:
        params[f"{table}.rate"] = str(getattr(plan, table))
    return {**params, "heal_steps": plan.heal_steps}


def _sublayer(kept: int, rate: str) -> Sublayer:
    """A removed sublayer has the cheapest rate, so that one model is one plan."""
    return Sublayer(kept, rate_named(rate) if kept else RATES[0])


@dataclass(frozen=True)
class Knob:
    """One thing of a plan that moves in steps: `level` now, `levels` in all, and the plan with another level."""

    name: str
    level: int
    levels: int
    at: Callable[[int], Plan]


def knobs(plan: Plan, layout: Layout) -> Iterator[Knob]:
    """Every knob of a plan that changes its bytes; a removed sublayer's rate is none."""
    for tower in (layout.encoder, layout.decoder):
        heads = range(tower.kv_heads + 1)
        widths = [width_of(step, tower.ffn) for step in range(WIDTH_STEPS + 1)]
        for index in range(tower.layers):
            yield from _sublayer_knobs(plan, (tower.name, index, "attention"), heads)
            yield from _sublayer_knobs(plan, (tower.name, index, "ffn"), widths)
    for table in TABLES:
        level = RATES.index(getattr(plan, table))
        yield Knob(f"{table}.rate", level, len(RATES), partial(_with_table, plan, table))


def _sublayer_knobs(plan: Plan, place: tuple[str, int, str], sizes: Sequence[int]) -> Iterator[Knob]:
    tower, index, part = place
    sublayer: Sublayer = getattr(getattr(plan, tower)[index], part)
    kept = sizes.index(sublayer.kept)
    yield Knob(
        f"{tower}.{index}.{part}.kept",
        kept,
        len(sizes),
        lambda level: _with_sublayer(plan, place, _sublayer(sizes[level], str(sublayer.rate))),
    )
    if sublayer.kept:
        yield Knob(
            f"{tower}.{index}.{part}.rate",
            RATES.index(sublayer.rate),
            len(RATES),
            lambda level: _with_sublayer(plan, place, replace(sublayer, rate=RATES[level])),
        )


def _with_sublayer(plan: Plan, place: tuple[str, int, str], sublayer: Sublayer) -> Plan:
    tower, index, part = place
    layers = list(getattr(plan, tower))
    layers[index] = replace(layers[index], **{part: sublayer})
    changed: dict[str, Any] = {tower: tuple(layers)}
    return replace(plan, **changed)


def _with_table(plan: Plan, table: str, level: int) -> Plan:
    changed: dict[str, Any] = {table: RATES[level]}
    return replace(plan, **changed)


def hears(plan: Plan) -> bool:
    """Whether the decoder keeps any attention: without it no audio reaches the output."""
    return any(layer.attention.kept for layer in plan.decoder)


def smallest_plan(layout: Layout) -> Plan:
    """The fewest bytes the space reaches: one decoder head at 2 bits, tables at 2 bits, all else gone."""
    gone = Sublayer(0, RATES[0])
    towers = {name: [Layer(gone, gone)] * getattr(layout, name).layers for name in TOWERS}
    towers["decoder"][0] = Layer(Sublayer(1, RATES[0]), gone)
    tables = dict.fromkeys(TABLES, RATES[0])
    return Plan(tuple(towers["encoder"]), tuple(towers["decoder"]), **tables, heal_steps=0)


def repair(plan: Plan, layout: Layout, size_range: SizeRange, fixed_bytes: int, seed: int) -> Plan:
    """The plan moved into the range by random single steps, deterministic in `seed`; one that is inside stays as it is.

    Steps go down while the plan reaches the bound, or up while it is under the range's lower one. Raises UserError
    where not even the smallest plan fits.
    """
    least = plan_size(layout, smallest_plan(layout), fixed_bytes).total
    if least >= size_range.bound_bytes:
        raise UserError(
            f"{size_range.name}: nothing fits below {format_bytes(size_range.bound_bytes)}; the smallest plan of this "
            f"model takes {format_bytes(least)}, so ask for more than that"
        )
    rng = random.Random(seed)
    if not hears(plan):
        first = plan.decoder[0]
        plan = replace(plan, decoder=(replace(first, attention=Sublayer(1, RATES[0])), *plan.decoder[1:]))

    def size(candidate: Plan) -> int:
        return plan_size(layout, candidate, fixed_bytes).total

    while size(plan) >= size_range.bound_bytes:
        lower = rng.choice([knob for knob in knobs(plan, layout) if knob.level])
        candidate = lower.at(lower.level - 1)
        plan = candidate if hears(candidate) else plan
    while size(plan) < size_range.least_bytes:
        raised = [knob.at(knob.level + 1) for knob in knobs(plan, layout) if knob.level + 1 < knob.levels]
        fitting = [candidate for candidate in raised if size(candidate) < size_range.bound_bytes]
        if not fitting:
            raise UserError(
                f"{size_range.name}: the model is too small to fill it; its bytes must reach "
                f"{format_bytes(size_range.least_bytes)}: choose a smaller bin"
            )
        plan = rng.choice(fitting)
    return plan
