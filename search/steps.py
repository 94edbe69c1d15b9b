"""Steps from plans of a study, by what single changes were measured to do around them.

For studies whose trials do not heal: what diverges least unhealed is not what heals best (decision 0035).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain, zip_longest
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState

from proxies.marginals import Marginals
from search.climbing import Climb
from search.rungs import least
from space.allocate import allocate_plan
from space.choices import Option, choices_of, plan_of
from space.genes import decode, encode
from space.limits import Limits
from space.plan import Heal, Plan, Sublayer

# Attributes of trials: the number of the trial whose plan was measured around last when they were proposed, and of
# steps the number of the trial they lead away from.
AROUND, STEP_FROM = "measured around trial", "step from trial"
# What changing a choice costs, in middle marginals: the dearer, the fewer choices change. What was measured one by one
# adds up for a few changes and not for many; how many are few the trials say.
_PRICES = (4.0, 2.0, 1.0, 0.5, 0.2, 0.0)
# The value of options that were not measured, in middle marginals.
_NEVER = -1e4
_GAP = 1e-3
# By what share more than the plan's own divergence an allocator's step may come to by what changes come to together.
_DEAREST = 1.5
# Of the steps that climbs come to so many are tried before another plan is measured around, and all of the allocator's.
_CLIMBED = 3
# From how many plans in a row no step leads to anything better before it is over.
_FRUITLESS = 2


class Steps:
    """Plans that lie a step away from one that was tried, the smallest steps first.

    `measure` gives the marginals of a plan. At most `rounds` plans of a study, one or more, are measured around: the
    first one, the best of the first few steps from it, and so on while these lead to something better, then the best
    plan there is. Where no step from two in a row does, or while some are under way, other steps from these plans are
    tried, from the last one's on. What was measured around a study's trials say, so that one that was killed goes on as
    if it had not been.
    """

    def __init__(self, limits: Limits, heal: Heal, measure: Callable[[Plan], Marginals], rounds: int) -> None:
        self._limits, self._heal, self._measure, self._rounds = limits, heal, measure, rounds
        self._known: dict[Plan, tuple[list[Plan], list[Plan]]] = {}

    def next(self, trials: Sequence[FrozenTrial], first: FrozenTrial | None) -> tuple[Plan | None, dict[str, Any]]:
        """A plan that none of the trials has, None where there is no step now, and what its trial is to keep.

        What it is to keep belongs to the trial that is proposed in place of a step, too. Steps begin at the trial that
        is `first`, or at the best where that did not get through; nothing new begins before that has ended, and all
        steps from one plan.
        """
        around = list(dict.fromkeys(one.user_attrs[AROUND] for one in trials if AROUND in one.user_attrs))
        if around and (step := self._untried(trials[around[-1]], trials, first=True)) is not None:
            return step, {AROUND: around[-1], STEP_FROM: around[-1]}
        origin = self._origin(trials, around, first)
        if origin is not None:
            step = self._untried(origin, trials, first=True)
            return step, {AROUND: origin.number} | ({} if step is None else {STEP_FROM: origin.number})
        for number in reversed(around):
            if (step := self._untried(trials[number], trials, first=False)) is not None:
                return step, {AROUND: around[-1], STEP_FROM: number}
        return None, {}

    def _origin(
        self, trials: Sequence[FrozenTrial], around: Sequence[int], first: FrozenTrial | None
    ) -> FrozenTrial | None:
        """The trial to measure around next."""
        complete = [one for one in trials if one.state == TrialState.COMPLETE]
        begins = [] if around or first is None else [first]
        ahead = [*begins, *(one for one in trials if _leads(one, around[-1:]))]
        if not complete or len(around) >= self._rounds or not all(one.state.is_finished() for one in ahead):
            return None
        best = least(complete)
        if not around:
            return first if first in complete else best
        leads = [least([trials[number], *(one for one in complete if _leads(one, [number]))]) for number in around]
        if leads[-1].number not in around:
            return leads[-1]
        over = len(around) >= _FRUITLESS and [one.number for one in leads[-_FRUITLESS:]] == list(around[-_FRUITLESS:])
        return None if over or best.number in around else best

    def _untried(self, origin: FrozenTrial, trials: Sequence[FrozenTrial], *, first: bool) -> Plan | None:
        """One of the `first` steps from a trial's plan, or of the others."""
        tried, plan = [one.params for one in trials], decode(origin.params, self._limits.layout)
        if plan not in self._known:
            self._known[plan] = steps_by(self._measure(plan), self._limits, self._heal)
        steps = self._known[plan][0 if first else 1]
        return next((step for step in steps if encode(step, self._limits.layout) not in tried), None)


def _leads(trial: FrozenTrial, origins: Sequence[int]) -> bool:
    """Whether it is a step from one of these."""
    return trial.user_attrs.get(STEP_FROM) in origins


def steps_by(marginals: Marginals, limits: Limits, heal: Heal) -> tuple[list[Plan], list[Plan]]:
    """Plans that make some of the changes: those to try first, two ways of choosing them by turns, and the others.

    One takes log-probabilities to add up, and searches from nothing and from the other's on (`search.climbing`). The
    other takes divergences to: the allocator's plans by the sum of marginals, one for each price of a change, the
    dearest first, but those that the first knows to be bad.
    """
    summed = allocated_steps(marginals, limits, heal)
    if not marginals.shifts:
        return summed, []
    climbed, summed = _climbed_steps(marginals, limits, summed)
    pairs = zip_longest(climbed[:_CLIMBED], summed)
    first = list(dict.fromkeys(step for step in chain.from_iterable(pairs) if step is not None))
    return first, [step for step in climbed if step not in first]


def _climbed_steps(marginals: Marginals, limits: Limits, summed: Sequence[Plan]) -> tuple[list[Plan], list[Plan]]:
    """The plans that climbs come to, the best first, and those of `summed` that are not bad by the same model."""
    layout, plan, keys = limits.layout, marginals.plan, list(marginals.shifts)
    own, linear = choices_of(layout, plan), marginals.linear()
    size, names = limits.bytes_of(plan), list(own)

    def changed(row: NDArray[np.float64]) -> Plan:
        made = {name: option for (name, option), one in zip(keys, row, strict=True) if one}
        return plan_of(layout, {**own, **made}, plan.heal)

    sizes = np.array([limits.bytes_of(changed(row)) - size for row in np.eye(len(keys))])
    of = np.array([names.index(name) for name, _ in keys])
    climb = Climb(linear, of, sizes, limits.size_range.bound_bytes - 1 - size)
    nothing = np.zeros(len(keys))
    rows = [_made(keys, own, choices_of(layout, step)) for step in summed]
    steps = [step for end in climb.ends([nothing, *rows]) if (step := changed(end)) != plan and limits.hold(step)]
    expected = linear.divergences(np.array([nothing, *rows]))
    good = [step for step, at in zip(summed, expected[1:], strict=True) if at <= _DEAREST * expected[0]]
    return steps, good


def _made(
    keys: Sequence[tuple[str, Option]], own: Mapping[str, Option], chosen: Mapping[str, Option]
) -> NDArray[np.float64]:
    """Which changes a plan's choices are: of size and rate of a sublayer at once both."""

    def makes(name: str, option: Option) -> bool:
        before, now = own[name], chosen[name]
        if now in (before, option):
            return now != before
        if not isinstance(before, Sublayer) or not isinstance(now, Sublayer) or not now.kept or not before.kept:
            return False
        return option in (replace(before, kept=now.kept), replace(before, rate=now.rate))

    return np.array([float(makes(name, option)) for name, option in keys])


def allocated_steps(marginals: Marginals, limits: Limits, heal: Heal) -> list[Plan]:
    """The allocator's plans by the sum of marginals, one for each price of a change; those that change anything.

    One that could not do without an option that was not measured is left out.
    """
    own, changes = choices_of(limits.layout, marginals.plan), marginals.changes
    sizes = [abs(change) for of in changes.values() for change in of.values() if change]
    if not sizes:
        return []
    middle = median(sizes)
    found: list[Plan] = []
    for price in _PRICES:

        def value(name: str, option: Option, price: float = price) -> float:
            change = changes[name].get(option)
            moved = 0.0 if option == own[name] else price
            return _NEVER if change is None else -(change / middle + moved)

        plan = allocate_plan(limits, value, gap=_GAP, heal=heal)[0]
        chosen = choices_of(limits.layout, plan)
        if chosen != own and plan not in found and all(chosen[name] in changes[name] for name in chosen):
            found.append(plan)
    return found
