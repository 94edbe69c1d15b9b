"""Filling a bound: what a plan leaves unused is given to its coded rates, the same fraction of a bit to each entry."""

from __future__ import annotations

from space.choices import Option, choices_of, plan_of
from space.limits import Limits
from space.plan import Plan, Sublayer
from space.rates import MOST_CODED_BITS, Coded

# Decimals of a filled rate, as its name has.
_DECIMALS = 4


def filled(plan: Plan, limits: Limits) -> Plan:
    """The plan with its coded rates raised by the most that stays under the bound; others stay as they are.

    One step factor for all matrices, as rate-distortion theory has it. A rate that pins hold stays.
    """
    chosen = choices_of(limits.layout, plan)

    def raised(ticks: int) -> Plan:
        more = {name: _raised(option, ticks) for name, option in chosen.items()}
        kept = {name: option if limits.pins.allow(name, option) else chosen[name] for name, option in more.items()}
        return plan_of(limits.layout, kept, plan.heal)

    low, high = 0, int(MOST_CODED_BITS * 10**_DECIMALS)
    while high - low > 1:
        middle = (low + high) // 2
        inside = limits.bytes_of(raised(middle)) < limits.size_range.bound_bytes
        low, high = (middle, high) if inside else (low, middle)
    # longer names of rates take bytes too: the bisection may have ended between two sizes
    while low and limits.bytes_of(raised(low)) >= limits.size_range.bound_bytes:
        low -= 1
    return raised(low)


def _raised(option: Option, ticks: int) -> Option:
    if isinstance(option, Sublayer):
        rate = _raised(option.rate, ticks)
        assert not isinstance(rate, int | Sublayer)
        return Sublayer(option.kept, rate) if option.kept else option
    if isinstance(option, Coded):
        return Coded(min(MOST_CODED_BITS, round(option.bits + ticks / 10**_DECIMALS, _DECIMALS)))
    return option
