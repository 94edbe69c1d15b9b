"""What a champion is held against: plans that others publish or make by hand, inside the same limits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from search.baselines import least_loss_plan, without_middle_layers
from space.choices import PARTS, choices_of, place, plan_of
from space.errors import UserError
from space.fill import filled
from space.layout import Layout, Tower
from space.limits import Limits
from space.pins import read_pins
from space.plan import NO_HEAL, REMOVED, Plan, uniform_plan
from space.policy import Loss
from space.rates import Rate, uniform_rates

# Bits that quantisation alone is said to cost next to nothing at.
BITS = 4
NONE_FITS = "none fits"
# 100 less chrF of an unhealed plan's translations on the proxy role: what a removal is chosen by.
Heard = Callable[[Plan], float]


@dataclass(frozen=True)
class Contender:
    """A method by name, what became of it under the limits, and its plan; None where none of its plans fits."""

    name: str
    what: str
    plan: Plan | None


def uniform(limits: Limits) -> Contender:
    """Nothing pruned, everything at the highest rate that fits."""
    return _first(limits, "uniform rate", _rates(limits.layout, 16), 1)


def middle_removed(limits: Limits) -> Contender:
    """4 bits, and as few middle layers of both towers removed as fits; lower bits where one of each is too much."""
    deepest = max(tower.layers for tower in limits.layout.towers)
    return _first(limits, f"middle layers removed, {BITS} bits", _rates(limits.layout, BITS), deepest)


def _first(limits: Limits, name: str, rates: Sequence[Rate], most_removed: int) -> Contender:
    """The first rate at which fewer than `most_removed` middle layers have to go, and as few as that."""
    for rate in rates:
        for removed in range(most_removed):
            plan = without_middle_layers(limits.layout, rate, removed, NO_HEAL)
            if limits.hold(plan):
                return Contender(name, said(limits.layout, plan), plan)
    return Contender(name, NONE_FITS, None)


def additive(limits: Limits, loss: Loss) -> Contender:
    """A rate for each sublayer and table by the least sum of losses, nothing removed and no width narrowed.

    As AutoRound's AutoScheme chooses bits; losses are the sensitivities of a search.
    """
    layout = limits.layout
    texts = [*(f"{tower.name}:whole" for tower in layout.towers), "vocabulary:whole"]
    return _allocated(replace(limits, pins=read_pins(texts, layout)), "additive bits, no pruning", loss)


def allocated(limits: Limits, loss: Loss) -> Contender:
    """The least sum of losses where pruning is allowed: the allocator without a search."""
    return _allocated(limits, "allocator on sensitivities", loss)


def _allocated(limits: Limits, name: str, loss: Loss) -> Contender:
    try:
        plan = least_loss_plan(limits, loss)
    except UserError:
        return Contender(name, NONE_FITS, None)
    return Contender(name, said(limits.layout, plan), plan)


def greedy_path(limits: Limits, heard: Heard) -> list[Plan]:
    """Plans at 4 bits, the first whole, each without one more layer, up to one that fits (Moslem 2025).

    The layer goes whose removal leaves the least loss: of the decoder until one is left there, then, where the decoder
    alone is not enough, of the encoder in the same way. What goes is made up for by the projection before it, which is
    kinder to the method than its source was.
    """
    layout = limits.layout
    plans = [uniform_plan(layout, _rates(layout, BITS)[0])]
    while limits.bytes_of(plans[-1]) >= limits.size_range.bound_bytes:
        removable = [
            (tower, left) for tower in reversed(layout.towers) if len(left := layers_left(plans[-1], tower)) > 1
        ]
        if not removable:
            break
        tower, left = removable[0]
        plans.append(min((without_layer(layout, plans[-1], tower, index) for index in left), key=heard))
    return plans


def greedy(limits: Limits, path: Sequence[Plan]) -> Contender:
    """The end of a path, at 4 bits; where that is too large, at the nearest lower ones."""
    name = f"greedy layer removal, {BITS} bits"
    for rate in _rates(limits.layout, BITS):
        plan = at_rate(limits.layout, path[-1], rate)
        if limits.hold(plan):
            return Contender(name, said(limits.layout, plan), plan)
    return Contender(name, NONE_FITS, None)


def greedy_at_bits_that_fit(limits: Limits, path: Sequence[Plan], heard: Heard) -> Contender:
    """Of all plans of a path, each at the most bits that fit, filled, the one of the least loss: fewer layers go."""
    fitting = []
    for plan in path:
        at_rates = (at_rate(limits.layout, plan, rate) for rate in _rates(limits.layout, BITS))
        fitting += [one for one in at_rates if limits.hold(one)][:1]
    name = "greedy layer removal, bits that fit"
    if not fitting:
        return Contender(name, NONE_FITS, None)
    best = min(fitting, key=lambda plan: heard(filled(plan, limits)))
    return Contender(name, said(limits.layout, best), best)


def layers_left(plan: Plan, tower: Tower) -> list[int]:
    """Indices of the layers of which anything stays."""
    return [i for i, layer in enumerate(plan.layers(tower)) if layer.attention.kept or layer.ffn.kept]


def without_layer(layout: Layout, plan: Plan, tower: Tower, index: int) -> Plan:
    """The plan without one more layer."""
    gone = dict.fromkeys((place(tower.name, index, part) for part in PARTS), REMOVED)
    return plan_of(layout, {**choices_of(layout, plan), **gone}, plan.heal)


def at_rate(layout: Layout, plan: Plan, rate: Rate) -> Plan:
    """What a plan leaves, everything at one rate."""
    gone = {name: option for name, option in choices_of(layout, plan).items() if option == REMOVED}
    return plan_of(layout, {**choices_of(layout, uniform_plan(layout, rate)), **gone}, plan.heal)


def said(layout: Layout, plan: Plan) -> str:
    """What stays of a plan's layers, whole or narrowed, and the rates of the rest."""
    rates = sorted(set(_rates_of(layout, plan)), key=lambda rate: rate.bits)
    bits = f"{rates[0].bits:g}" if len(rates) == 1 else f"{rates[0].bits:g} to {rates[-1].bits:g}"
    towers = [f"{tower.name} {', '.join(str(i + 1) for i in layers_left(plan, tower))}" for tower in layout.towers]
    removed = any(len(layers_left(plan, tower)) < tower.layers for tower in layout.towers)
    left = f"layers left: {'; '.join(towers)}" if removed else "all layers"
    return f"{left}; {bits} bits"


def _rates_of(layout: Layout, plan: Plan) -> list[Rate]:
    sublayers = [part for tower in layout.towers for x in plan.layers(tower) for part in (x.attention, x.ffn)]
    return [*(part.rate for part in sublayers if part.kept), *(plan.rate(name) for name in layout.tables)]


def _rates(layout: Layout, most_bits: float) -> list[Rate]:
    """Rates of uniform plans up to some bits, the highest first."""
    return [rate for rate in reversed(uniform_rates(layout.rates)) if rate.bits <= most_bits]
