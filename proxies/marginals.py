"""Marginals: what a plan's divergence and answers change by when a choice moves a step or two, measured one by one.

Sensitivities are measured at the source. Where much goes they say little of what is worth having there: at the plan
itself the sum of single changes is nearer to what several of them come to (SPDY, Frantar and Alistarh 2022, arXiv
2201.13096, measures at the source; moving the point of measurement is successive linear programming, Griffith and
Stewart 1961).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from statistics import median_low

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from proxies.answers import Answers
from proxies.linear import Linear
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

    The plan's own options change nothing. A sublayer's size and rate together change it by the sum of both. `shifts`
    are what it moves the plan's `own` log-probabilities by (predictions, tokens), of choices and options of which that
    is known: not of numbers of tokens.
    """

    plan: Plan
    changes: Mapping[str, Mapping[Option, float]]
    own: Answers | None = None
    shifts: Mapping[tuple[str, Option], Tensor] = field(default_factory=dict)

    def linear(self, layout: Layout) -> tuple[list[tuple[str, Option]], Linear]:
        """Changes, and what several of them come to: those in `shifts`, and trades of size for rate in a sublayer.

        A trade, of more channels or heads that are coded coarser or of fewer finer, shifts by what both do alone.
        """
        assert self.own is not None
        shifts = dict(self.shifts)
        for name, own in choices_of(layout, self.plan).items():
            for size, rate in product(*_moved(own, [option for of, option in self.shifts if of == name])):
                if (size.kept > rate.kept) != (size.rate.bits < rate.rate.bits):
                    shifts[name, Sublayer(size.kept, rate.rate)] = self.shifts[name, size] + self.shifts[name, rate]
        return list(shifts), Linear(self.own, torch.stack(list(shifts.values())))


@dataclass(frozen=True, eq=False)
class Change:
    """The divergence of a plan with one change, and what that moves its log-probabilities by (predictions, tokens)."""

    divergence: float
    shift: Tensor | None = None


# A plan's answers, of the same tokens as another's if there is one that they are to be compared with.
Score = Callable[[Plan, Answers | None], Answers]


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
    score: Score,
    known: Sequence[Change] = (),
    save: Callable[[Sequence[Change]], None] = lambda _found: None,
) -> Marginals:
    """Scores the plan and its `neighbours`; all changes are saved after each choice of which something was scored.

    `known` are changes that were saved before, of the neighbours in their order, as many as there are.
    """
    found, asked = list(known), list(neighbours(plan, limits))
    own = score(plan, None)
    for place, (name, _, other) in enumerate(asked, 1):
        if place <= len(found):
            continue
        found.append(_change(own, score(other, own if other.vocabulary == plan.vocabulary else None)))
        if place == len(asked) or asked[place][0] != name:
            save(found)
    changes = {name: {option: 0.0} for name, option in choices_of(limits.layout, plan).items()}
    for (name, option, _), one in zip(asked, found, strict=True):
        changes[name][option] = finite(one.divergence) - finite(own.divergence)
    summed = {name: _with_sums(limits.layout, plan, name, of) for name, of in changes.items()}
    shifts = {(name, option): one.shift for (name, option, _), one in zip(asked, found, strict=True)}
    return Marginals(plan, summed, own, {key: shift for key, shift in shifts.items() if shift is not None})


def _change(own: Answers, other: Answers) -> Change:
    """What answers are to a plan's own; without a shift where none is known, or it leaves no numbers."""
    if own.logs is None or other.logs is None or other.ids is not own.ids:
        return Change(other.divergence)
    shift = (other.logs - own.logs).half()
    return Change(other.divergence, shift if bool(shift.isfinite().all()) else None)


def made(
    keys: Sequence[tuple[str, Option]], own: Mapping[str, Option], chosen: Mapping[str, Option]
) -> NDArray[np.float64]:
    """Which of `keys` a plan's choices are: of size and rate of a sublayer both changes, where they are no trade."""
    known = set(keys)

    def parts(name: str, now: Option) -> list[Option]:
        before = own[name]
        if (name, now) in known or not isinstance(before, Sublayer) or not isinstance(now, Sublayer):
            return [now]
        return [replace(before, kept=now.kept), replace(before, rate=now.rate)]

    of = {name: parts(name, now) for name, now in chosen.items() if now != own[name]}
    return np.array([float(option in of.get(name, ())) for name, option in keys])


def _with_sums(layout: Layout, plan: Plan, name: str, changes: Mapping[Option, float]) -> dict[Option, float]:
    """Those of one choice, and of sublayers that stay what size and rate change together."""
    moved = product(*_moved(choices_of(layout, plan)[name], changes))
    return {**{Sublayer(size.kept, rate.rate): changes[size] + changes[rate] for size, rate in moved}, **changes}


def _moved(own: Option, options: Iterable[Option]) -> tuple[list[Sublayer], list[Sublayer]]:
    """Of a sublayer that stays, the options that are of another size alone, and those of another rate."""
    if not isinstance(own, Sublayer) or not own.kept:
        return [], []
    kept = [one for one in options if isinstance(one, Sublayer) and one.kept and one != own]
    return [one for one in kept if one.rate == own.rate], [one for one in kept if one.kept == own.kept]
