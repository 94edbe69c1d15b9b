"""The first trials: what anybody would try, and what the allocator makes of values nobody has measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from space.allocate import allocate_plan
from space.layout import Layout, Tower
from space.limits import Limits
from space.plan import REMOVED, Heal, Layer, Plan, uniform_plan
from space.prior import GAP, Coverage, prior_loss
from space.rates import Rate, uniform_rates

_GONE = Layer(REMOVED, REMOVED)
_MOST_BASELINES = 6


@dataclass(frozen=True)
class Start:
    """A plan that is tried before any sampler proposes; `kind`, an attribute of its trial, is baseline or allocator."""

    kind: str
    name: str
    plan: Plan


def starts(limits: Limits, coverage: Coverage, heal: Heal) -> list[Start]:
    """The simple baselines, healed for `heal`, and the allocator's plan on prior values, healed and unhealed."""
    simple = [Start("baseline", name, plan) for name, plan in baselines(limits, heal)]
    loss = prior_loss(limits.layout, coverage)
    plan, _ = allocate_plan(limits, lambda name, option: -loss(name, option), gap=GAP)
    healed = [replace(plan, heal=replace(heal, steps=steps)) for steps in (heal.steps, 0)]
    return simple + [Start("allocator", f"prior values, {one.heal.steps} heal steps", one) for one in healed]


def baselines(limits: Limits, heal: Heal) -> Iterator[tuple[str, Plan]]:
    """One rate for everything, and middle layers removed with the rest at as many bits as then fit.

    Named plans inside the limits, at most a few: the numbers of removed layers are spread over those that fit.
    """
    found: dict[int, tuple[Rate, Plan]] = {}
    for rate in reversed(uniform_rates(limits.layout.rates)):
        for removed in range(max(tower.layers for tower in limits.layout.towers)):
            plan = without_middle_layers(limits.layout, rate, removed, heal)
            if limits.hold(plan):
                found.setdefault(removed, (rate, plan))
                break
    numbers = sorted(found)
    count = min(_MOST_BASELINES, len(numbers))
    for i in range(count):
        removed = numbers[round(i * (len(numbers) - 1) / max(1, count - 1))]
        rate, plan = found[removed]
        name = f"{removed} middle layers removed" if removed else "uniform"
        yield f"{name}, {rate.bits} bits", plan


def without_middle_layers(layout: Layout, rate: Rate, removed: int, heal: Heal) -> Plan:
    """Everything at one rate, `removed` layers gone from the middle of each tower; each tower keeps at least one."""
    plan = uniform_plan(layout, rate, heal)

    def cut(tower: Tower) -> tuple[Layer, ...]:
        layers = plan.layers(tower)
        count = min(removed, len(layers) - 1)
        first = (len(layers) - count + 1) // 2
        return (*layers[:first], *(_GONE,) * count, *layers[first + count :])

    stacks = {tower.name: cut(tower) for tower in layout.towers}
    return replace(plan, encoder=stacks.get("encoder", ()), decoder=stacks["decoder"])
