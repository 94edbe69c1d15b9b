"""Policies: some ten multipliers of what options cost, between which and the best plan for them stands the allocator.

A sensitivity says what an option costs when it alone is changed and nothing is healed. Multipliers say in what that
misleads: how much dearer removal is than it looks, how much gentler narrowing, which tower and which end of it matters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

from space.choices import PARTS, VOCABULARY, Option, choices
from space.layout import Layout
from space.plan import Sublayer

# What an option of a choice costs.
Loss = Callable[[str, Option], float]
# Powers of two, by multiplier; every policy has all of them, and all 0 leaves losses as they are.
Policy = Mapping[str, float]

_WEIGHT, _TILT, _WIDTH, _REMOVAL, _POWER = (-2.0, 2.0), (-1.5, 1.5), (-4.0, 2.0), (-1.0, 6.0), (-1.0, 1.5)


def multipliers(layout: Layout) -> dict[str, tuple[float, float]]:
    """The multipliers of a layout's policies by name, and the least and the largest power of two of each."""
    found: dict[str, tuple[float, float]] = {}
    for tower in layout.towers:
        found |= {f"{tower.name}.{part}": _WEIGHT for part in PARTS}
        found |= {f"{tower.name}.later": _TILT, f"{tower.name}.removal": _REMOVAL}
    found |= {f"{part}.width": _WIDTH for part in PARTS}
    return {**found, "tables": _WEIGHT, VOCABULARY: _WEIGHT, "power": _POWER}


def split_loss(layout: Layout, loss: Loss) -> Callable[[str, Option], tuple[float, float]]:
    """What an option costs by what goes, and by how coarsely the rest is stored."""
    best = {name: found[-1] for name, found in choices(layout).items()}

    @cache
    def parts(name: str, option: Option) -> tuple[float, float]:
        whole = best[name]
        if not isinstance(option, Sublayer) or not option.kept:
            return loss(name, option), 0.0
        assert isinstance(whole, Sublayer)
        width = loss(name, Sublayer(option.kept, whole.rate))
        return width, max(0.0, loss(name, option) - width)

    return parts


def exponents_of(layout: Layout) -> Callable[[str, Option], tuple[Mapping[str, float], str | None]]:
    """Multipliers of an option's whole loss, each with its share, and the one of what goes, if any."""
    depths = {tower.name: max(1, tower.layers - 1) for tower in layout.towers}

    @cache
    def exponents(name: str, option: Option) -> tuple[Mapping[str, float], str | None]:
        if not isinstance(option, Sublayer):
            return {name if name == VOCABULARY else "tables": 1.0}, None
        tower, index, part = name.split(".")
        weight = {f"{tower}.{part}": 1.0, f"{tower}.later": 2 * int(index) / depths[tower] - 1}
        return weight, f"{part}.width" if option.kept else f"{tower}.removal"

    return exponents


def policy_loss(layout: Layout, loss: Loss) -> Callable[[Policy], Loss]:
    """What options cost by a policy.

    A removed sublayer costs more by its tower's removal multiplier, what a narrower one costs at the highest rate more
    by its part's width multiplier; the sum of this and of what the rate costs is raised to the policy's power, which
    says whether a few large losses or many small ones are dearer, and weighed by tower, part and depth.
    """
    parts, exponents = split_loss(layout, loss), exponents_of(layout)

    def shaped(policy: Policy) -> Loss:
        power = 2 ** policy["power"]

        def one(name: str, option: Option) -> float:
            goes, coarse = parts(name, option)
            weight, inside = exponents(name, option)
            if inside is not None:
                goes *= 2 ** policy[inside]
            weighed = sum(share * policy[multiplier] for multiplier, share in weight.items())
            return float(2**weighed * (goes + coarse) ** power)

        return one

    return shaped
