"""Plans as Optuna parameters, one pure function each way, and the repair that puts any plan inside its limits."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution, distribution_to_json

from space.choices import PARTS, VOCABULARY, Option, choices_of, hears, is_hearing, place, plan_of, sizes, sublayer
from space.layout import Layout, Tower
from space.limits import Limits, allowed_options
from space.plan import Heal, Plan, Sublayer
from space.rates import Coded, Packed, Rate, rate_named

# For how many steps a trial heals at most; half of them and none are the other choices.
HEAL_STEPS = 50
HEAL_RANKS = (0, 8, 32)
HEAL_RATES = (0.5, 1.0, 2.0)
# How many things of a plan are exchanged at most.
_MOST_SWAPS = 3
# Parameters of a sublayer: how much stays, in steps of `space.choices.sizes`, and the rate.
_NAMES = {"attention": ("heads", "attention_rate"), "ffn": ("width", "ffn_rate")}


def distributions(layout: Layout, heal_steps: int = HEAL_STEPS) -> dict[str, BaseDistribution]:
    """The joint space: every name and range of `encode`'s parameters, where trials heal for at most `heal_steps`."""
    space: dict[str, BaseDistribution] = {}
    rates = CategoricalDistribution(tuple(map(str, layout.rates)))
    for tower in layout.towers:
        for index in range(tower.layers):
            for part in PARTS:
                size, rate = _NAMES[part]
                space[f"{tower.name}.{index}.{size}"] = IntDistribution(0, len(sizes(tower, part)) - 1)
                space[f"{tower.name}.{index}.{rate}"] = rates
    space |= {f"{table}.rate": rates for table in layout.tables}
    space[VOCABULARY] = IntDistribution(0, len(layout.vocabulary_sizes) - 1)
    space |= {
        "heal_steps": CategoricalDistribution(sorted({0, heal_steps // 2, heal_steps})),
        "heal_rank": CategoricalDistribution(HEAL_RANKS),
        "heal_rate": CategoricalDistribution(HEAL_RATES),
    }
    return space


def space_fingerprint(layout: Layout, heal_steps: int = HEAL_STEPS) -> str:
    """A hash of everything that may be chosen: parameters, their ranges, and the sizes that their numbers stand for."""
    told = {
        "parameters": {
            name: distribution_to_json(one) for name, one in sorted(distributions(layout, heal_steps).items())
        },
        "sizes": {tower.name: {part: list(sizes(tower, part)) for part in PARTS} for tower in layout.towers},
        "vocabulary": list(layout.vocabulary_sizes),
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def decode(params: Mapping[str, Any], layout: Layout) -> Plan:
    """The plan that a complete set of parameters stands for."""
    chosen: dict[str, Option] = {}
    for tower in layout.towers:
        steps = {part: sizes(tower, part) for part in PARTS}
        for index in range(tower.layers):
            for part in PARTS:
                size, rate = (params[f"{tower.name}.{index}.{name}"] for name in _NAMES[part])
                chosen[place(tower.name, index, part)] = sublayer(steps[part][int(size)], rate_named(rate))
    chosen |= {table: rate_named(params[f"{table}.rate"]) for table in layout.tables}
    chosen[VOCABULARY] = layout.vocabulary_sizes[int(params[VOCABULARY])]
    heal = Heal(int(params["heal_steps"]), int(params["heal_rank"]), float(params["heal_rate"]))
    return plan_of(layout, chosen, heal)


def encode(plan: Plan, layout: Layout) -> dict[str, Any]:
    """Inverse of `decode` for plans whose sizes are steps of the space."""
    params: dict[str, Any] = {}
    for tower in layout.towers:
        steps = {part: sizes(tower, part) for part in PARTS}
        for index, layer in enumerate(plan.layers(tower)):
            for part in PARTS:
                size, rate = _NAMES[part]
                kept: Sublayer = getattr(layer, part)
                params[f"{tower.name}.{index}.{size}"] = steps[part].index(kept.kept)
                params[f"{tower.name}.{index}.{rate}"] = str(kept.rate if kept.kept else layout.rates[0])
    params |= {f"{table}.rate": str(plan.rate(table)) for table in layout.tables}
    params[VOCABULARY] = layout.vocabulary_sizes.index(plan.vocabulary)
    heal = plan.heal
    return {**params, "heal_steps": heal.steps, "heal_rank": heal.rank, "heal_rate": heal.rate}


@dataclass(frozen=True)
class Knob:
    """One thing of a choice that moves in steps: the choice's name, `level` now, and the option at each level."""

    name: str
    level: int
    options: tuple[Option, ...]

    def stepped(self, by: int) -> Option | None:
        """The option `by` levels away; None beyond the ends."""
        level = self.level + by
        return self.options[level] if 0 <= level < len(self.options) else None


@lru_cache(maxsize=1024)
def _resized(tower: Tower, part: str, rate: Rate) -> tuple[Option, ...]:
    """A sublayer's options at one rate, ascending."""
    return tuple(sublayer(kept, rate) for kept in sizes(tower, part))


@lru_cache(maxsize=1024)
def _rerated(rates: tuple[Rate, ...], kept: int) -> tuple[Option, ...]:
    """The options of a sublayer of which as much stays."""
    return tuple(Sublayer(kept, rate) for rate in rates)


def knobs(chosen: Mapping[str, Option], layout: Layout) -> Iterator[Knob]:
    """Every knob that changes bytes: sizes, rates, the vocabulary; a removed sublayer's rate is none."""
    for tower in layout.towers:
        for part in PARTS:
            steps = sizes(tower, part)
            for index in range(tower.layers):
                name = place(tower.name, index, part)
                now = chosen[name]
                assert isinstance(now, Sublayer)
                yield Knob(name, steps.index(now.kept), _resized(tower, part, now.rate))
                if now.kept:
                    yield Knob(name, layout.rates.index(now.rate), _rerated(layout.rates, now.kept))
    for table in layout.tables:
        rate = chosen[table]
        assert isinstance(rate, Packed | Coded)
        yield Knob(table, layout.rates.index(rate), layout.rates)
    tokens = chosen[VOCABULARY]
    assert isinstance(tokens, int)
    yield Knob(VOCABULARY, layout.vocabulary_sizes.index(tokens), layout.vocabulary_sizes)


def repair(plan: Plan, limits: Limits, seed: int) -> Plan:
    """The plan moved inside its limits by random single steps, deterministic in `seed`; one that is inside stays.

    What pins forbid is replaced by the nearest that they allow; then steps go down while the plan reaches the bound, or
    up while it is under the range's lower one. Raises UserError where no plan is inside.
    """
    if limits.hold(plan):
        return plan
    limits.check()
    rng = random.Random(seed)
    plan = _heard(_pinned(plan, limits), limits)
    chosen = choices_of(limits.layout, plan)

    def size() -> int:
        return limits.bytes_of(plan_of(limits.layout, chosen, plan.heal))

    while size() >= limits.size_range.bound_bytes:
        if _moved(chosen, -1, limits, rng) is None:
            raise AssertionError(f"{limits.size_range.name}: stuck above the bound, though something fits")
    while size() < limits.size_range.least_bytes:
        if _moved(chosen, +1, limits, rng) is None:
            raise AssertionError(f"{limits.size_range.name}: stuck under the lower bound, though something fits")
    return plan_of(limits.layout, chosen, plan.heal)


def swapped(plan: Plan, limits: Limits, seed: int) -> Plan:
    """A plan inside the limits with one to three of its things exchanged, deterministic in `seed`.

    Each time something goes a step down, and others go up, a step each, until the plan has the bytes it had or nothing
    more fits: the level switch of EvoPress (Sieberling et al. 2024, arXiv 2410.14649, section 3), of things that are
    not all of one size. Fewer exchanges are likelier than more.
    """
    rng = random.Random(seed)
    before, chosen = limits.bytes_of(plan), choices_of(limits.layout, plan)
    for _ in range(min(rng.randint(1, _MOST_SWAPS), rng.randint(1, _MOST_SWAPS))):
        lowered = _moved(chosen, -1, limits, rng)
        while lowered and limits.bytes_of(plan_of(limits.layout, chosen)) < before:
            if _moved(chosen, +1, limits, rng, besides=lowered) is None:
                break
    return repair(plan_of(limits.layout, chosen, plan.heal), limits, seed)


def _moved(
    chosen: dict[str, Option], by: int, limits: Limits, rng: random.Random, besides: str | None = None
) -> str | None:
    """Moves one thing, chosen at random among those that can move inside the limits; its name, None where none can.

    What goes up keeps under the bound, and something goes on hearing. What is `besides` stays.
    """
    movable = [knob for knob in knobs(chosen, limits.layout) if knob.name != besides]
    rng.shuffle(movable)
    for knob in movable:
        option = _allowed_step(knob, by, limits)
        if option is None:
            continue
        plan = plan_of(limits.layout, {**chosen, knob.name: option})
        if hears(plan) and (by < 0 or limits.bytes_of(plan) < limits.size_range.bound_bytes):
            chosen[knob.name] = option
            return knob.name
    return None


def _allowed_step(knob: Knob, by: int, limits: Limits) -> Option | None:
    """The option `by` levels away if the pins allow it; what comes back from nothing may take any rate they allow."""
    option, now = knob.stepped(by), knob.options[knob.level]
    candidates = [] if option is None else [option]
    if isinstance(option, Sublayer) and isinstance(now, Sublayer) and not now.kept:
        candidates = [replace(option, rate=rate) for rate in limits.layout.rates]
    return next((one for one in candidates if limits.pins.allow(knob.name, one)), None)


def _pinned(plan: Plan, limits: Limits) -> Plan:
    """The plan with every forbidden option replaced by the nearest allowed one."""
    allowed = allowed_options(limits)
    chosen = choices_of(limits.layout, plan)
    for name, option in chosen.items():
        if not limits.pins.allow(name, option):
            chosen[name] = min(allowed[name], key=lambda other, now=option: _distance(now, other))  # type: ignore[misc]
    return plan_of(limits.layout, chosen, plan.heal)


def _distance(now: Option, other: Option) -> tuple[int, float]:
    """How far apart two options of a choice are: in size first, then in rate."""
    if isinstance(now, int) or isinstance(other, int):
        assert isinstance(now, int)
        assert isinstance(other, int)
        return abs(now - other), 0
    if isinstance(now, Sublayer) and isinstance(other, Sublayer):
        return abs(now.kept - other.kept), abs(now.rate.bits - other.rate.bits)
    assert not isinstance(now, Sublayer)
    assert not isinstance(other, Sublayer)
    return 0, abs(now.bits - other.bits)


def _heard(plan: Plan, limits: Limits) -> Plan:
    """The plan with at least one decoder attention: the smallest that the pins allow, in the first layer that may."""
    if hears(plan):
        return plan
    chosen = choices_of(limits.layout, plan)
    for name, options in allowed_options(limits).items():
        for option in options if is_hearing(name) else ():
            if isinstance(option, Sublayer) and option.kept:
                return plan_of(limits.layout, {**chosen, name: option}, plan.heal)
    raise AssertionError("Limits.check lets no plan through without decoder attention")
