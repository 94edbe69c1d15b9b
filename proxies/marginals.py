"""Marginals: what a plan's divergence changes by when one of its choices moves a step or two, measured one by one.

Sensitivities are measured at the source. Where much goes they say little of what is worth having there: at the plan
itself the sum of single changes is nearer to what several of them come to (SPDY, Frantar and Alistarh 2022, arXiv
2201.13096, measures at the source; moving the point of measurement is successive linear programming, Griffith and
Stewart 1961).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median_low

from proxies.sensitivity import finite
from space.choices import Option, choices_of, plan_of
from space.genes import knobs
from space.layout import Layout
from space.limits import Limits
from space.plan import Plan, Sublayer

# How far sizes and rates move, in steps.
_STEPS = (-2, -1, 1, 2)


@dataclass(frozen=True)
class Marginals:
    """By choice and option, what changing it alone changes the divergence of a plan by, in nats a token.

    The plan's own options change nothing. A sublayer's size and rate together change it by the sum of both.
    """

    plan: Plan
    changes: Mapping[str, Mapping[Option, float]]


def neighbours(plan: Plan, limits: Limits) -> Iterator[tuple[str, Option, Plan]]:
    """What is measured: choice, option that the pins allow, and the plan with it alone changed, inside or outside.

    A removed sublayer comes back near the middle rate of what stays. Choices come from the last to the first, so that
    of plan after plan much stays.
    """
    layout, now = limits.layout, choices_of(limits.layout, plan)
    stays = [one.rate.bits for one in now.values() if isinstance(one, Sublayer) and one.kept]
    middle = median_low(stays or [rate.bits for rate in layout.rates])
    by_middle = sorted(layout.rates, key=lambda rate: abs(rate.bits - middle))
    for knob in reversed(list(knobs(now, layout))):
        own = now[knob.name]
        for by in _STEPS:
            option = knob.stepped(by)
            options = [] if option is None else [option]
            if isinstance(option, Sublayer) and isinstance(own, Sublayer) and option.kept and not own.kept:
                options = [replace(option, rate=rate) for rate in by_middle]
            allowed = next((one for one in options if limits.pins.allow(knob.name, one)), None)
            if allowed is not None:
                yield knob.name, allowed, plan_of(layout, {**now, knob.name: allowed}, plan.heal)


def measure_marginals(
    plan: Plan,
    limits: Limits,
    score: Callable[[Plan], float],
    known: Sequence[float] = (),
    save: Callable[[Sequence[float]], None] = lambda _found: None,
) -> Marginals:
    """Scores the plan and its `neighbours`; all is saved after each choice of which something was scored.

    `known` are scores that were saved before, of the plan and its neighbours in their order, as many as there are.
    """
    found, asked = list(known), list(neighbours(plan, limits))

    if not found:
        found.append(finite(score(plan)))
    for place, (name, _, other) in enumerate(asked, 1):
        if place < len(found):
            continue
        found.append(finite(score(other)))
        if place == len(asked) or asked[place][0] != name:
            save(found)
    changes = {name: {own: 0.0} for name, own in choices_of(limits.layout, plan).items()}
    for (name, option, _), value in zip(asked, found[1:], strict=True):
        changes[name][option] = value - found[0]
    return Marginals(plan, {name: _with_sums(limits.layout, plan, name, of) for name, of in changes.items()})


def _with_sums(layout: Layout, plan: Plan, name: str, changes: Mapping[Option, float]) -> dict[Option, float]:
    """Those of one choice, and of sublayers that stay what size and rate change together."""
    own = choices_of(layout, plan)[name]
    if not isinstance(own, Sublayer) or not own.kept:
        return dict(changes)
    kept = [one for one in changes if isinstance(one, Sublayer) and one.kept]
    sums: dict[Option, float] = {
        Sublayer(size.kept, rate.rate): changes[size] + changes[rate]
        for size in kept
        for rate in kept
        if size.rate == own.rate and rate.kept == own.kept
    }
    return {**sums, **changes}
