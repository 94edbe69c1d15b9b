"""What anybody would try first: one rate for everything, or middle layers removed and the rest at few bits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from space.layout import Layout, Tower
from space.limits import Limits
from space.plan import RATES, Layer, Packed, Plan, Sublayer, uniform_plan

# Bits tried for the baselines, each with groups of 64.
_RATES = tuple(Packed(bits, 64) for bits in (2, 3, 4, 5, 6, 8))
_GONE = Layer(Sublayer(0, RATES[0]), Sublayer(0, RATES[0]))


def baselines(limits: Limits, heal_steps: int) -> Iterator[tuple[str, Plan]]:
    """Named plans inside the limits: for each rate, the fewest middle layers removed from both towers that fit."""
    for rate in reversed(_RATES):
        for removed in range(max(tower.layers for tower in limits.layout.towers)):
            plan = without_middle_layers(limits.layout, rate, removed, heal_steps)
            if limits.hold(plan):
                name = f"{removed} middle layers removed" if removed else "uniform"
                yield f"{name}, {rate.bits} bits", plan
                break


def without_middle_layers(layout: Layout, rate: Packed, removed: int, heal_steps: int) -> Plan:
    """Everything at one rate, `removed` layers gone from the middle of each tower; each tower keeps at least one."""
    plan = uniform_plan(layout, rate, heal_steps)

    def cut(tower: Tower) -> tuple[Layer, ...]:
        layers = plan.layers(tower)
        count = min(removed, len(layers) - 1)
        first = (len(layers) - count + 1) // 2
        return (*layers[:first], *(_GONE,) * count, *layers[first + count :])

    stacks = {tower.name: cut(tower) for tower in layout.towers}
    return replace(plan, encoder=stacks.get("encoder", ()), decoder=stacks["decoder"])
