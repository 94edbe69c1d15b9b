"""Steps from plans of a study, by what single changes were measured to do around them.

For studies whose trials do not heal: what diverges least unhealed is not what heals best (decision 0035).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain, zip_longest
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState

from proxies.marginals import Marginals, made
from search.climbing import Climb
from search.rungs import least
from space.allocate import allocate_plan
from space.choices import Option, choices_of, plan_of
from space.genes import decode, encode
from space.limits import Limits
from space.plan import Heal, Plan

# Attributes of trials: the number of the trial whose plan was measured around last when they were proposed, and of
# steps the number of the trial they lead away from.
AROUND, STEP_FROM = "measured around trial", "step from trial"
# What changing a choice costs, in middle marginals: the dearer, the fewer choices change. What was measured one by one
# adds up for a few changes and not for many; how many are few the trials say.
_PRICES = (4.0, 2.0, 1.0, 0.5, 0.2, 0.0)
# The same of climbs that are to make few changes.
_DEAR = (1.0, 0.5, 0.2)
# The value of options that were not measured, in middle marginals.
_NEVER = -1e4
_GAP = 1e-3
# How many times the plan's own divergence an allocator's step may come to by what changes come to together.
_DEAREST = 1.5
# So many of the steps that climbs come to are tried before another plan is measured around, and of the allocator's.
_CLIMBED, _SUMMED = 2, 3
# From how many plans in a row no step leads to anything better before it is over.
_FRUITLESS = 2


class Steps:
    """Plans that lie a step away from one that was tried.

    `measure` gives the marginals of a plan. At most `rounds` plans of a study, one or more, are measured around: the
    first one, the best of the first few steps from it, and so on while these lead to something better, then the best
    plan there is. Where there is none, or two in a row lead to nothing better, other steps from these plans are tried,
    from the last one's on. What was measured around a study's trials say, so that one that was killed goes on as if it
    had not been.
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
        if any(_leads(one, around[-1:]) and not one.state.is_finished() for one in trials):
            return None, {}
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
        """The trial to measure around next, where no step is under way."""
        complete = [one for one in trials if one.state == TrialState.COMPLETE]
        begins = first is not None and not around and not first.state.is_finished()
        if not complete or len(around) >= self._rounds or begins:
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
    """Plans that make some of the changes: those to try first, three ways of choosing them by turns, and the others.

    Two take log-probabilities to add up: climbs (`search.climbing`) from nothing and from the third way's steps, and
    climbs that make few changes, each at a price. The third takes divergences to add up: the allocator's plans by the
    sum of marginals, one for each price of a change, the dearest first, but those that the first knows to be bad.
    """
    summed = allocated_steps(marginals, limits, heal)
    if not marginals.shifts:
        return summed, []
    climbed, few, expected = _climbed_steps(marginals, limits, summed)
    good = [step for step in summed if expected[step] <= _DEAREST * expected[marginals.plan]]
    best = sorted(good, key=lambda step: expected[step])[:_SUMMED]
    turns = zip_longest(climbed[:_CLIMBED], few, [step for step in good if step in best])
    first = list(dict.fromkeys(step for step in chain.from_iterable(turns) if step is not None))
    return first, list(dict.fromkeys(step for step in (*climbed, *good) if step not in first))


def _climbed_steps(
    marginals: Marginals, limits: Limits, summed: Sequence[Plan]
) -> tuple[list[Plan], list[Plan], dict[Plan, float]]:
    """What climbs come to, the best first, and at prices; and what the plan and `summed` are expected to diverge by.

    What is expected knows nothing of changes without a shift, as of the number of tokens.
    """
    layout, plan, (keys, linear) = limits.layout, marginals.plan, marginals.linear(limits.layout)
    own, size = choices_of(layout, plan), limits.bytes_of(plan)
    names = list(own)

    def changed(row: NDArray[np.float64]) -> Plan:
        options = {name: option for (name, option), one in zip(keys, row, strict=True) if one}
        return plan_of(layout, {**own, **options}, plan.heal)

    sizes = np.array([limits.bytes_of(changed(row)) - size for row in np.eye(len(keys))])
    of = np.array([names.index(name) for name, _ in keys])
    climb = Climb(linear, of, sizes, limits.size_range.bound_bytes - 1 - size)
    rows = [made(keys, own, choices_of(layout, step)) for step in (plan, *summed)]
    nothing, middle = rows[0], _middle(marginals)
    ends, few = climb.ends(rows), [nothing]
    for price in _DEAR:
        few.append(replace(climb, price=price * middle).reached([nothing, few[-1]])[0])

    def steps(ends: Sequence[NDArray[np.float64]]) -> list[Plan]:
        found = dict.fromkeys(changed(row) for row in ends)
        return [step for step in found if step != plan and limits.hold(step)]

    expected = linear.divergences(np.array(rows)).tolist()
    return steps(ends), steps(few), dict(zip((plan, *summed), expected, strict=True))


def _middle(marginals: Marginals) -> float:
    """The middle size of the marginals that are not nothing, 0 where all are."""
    return median([abs(change) for of in marginals.changes.values() for change in of.values() if change] or [0.0])


def allocated_steps(marginals: Marginals, limits: Limits, heal: Heal) -> list[Plan]:
    """The allocator's plans by the sum of marginals, one for each price of a change; those that change anything.

    One that could not do without an option that was not measured is left out.
    """
    own, changes = choices_of(limits.layout, marginals.plan), marginals.changes
    middle = _middle(marginals)
    if not middle:
        return []
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
