"""Many plans of policies at once: what the allocator would make of them, near enough to compare, in milliseconds.

Prices of bytes alone, on arrays that are made once; `space.allocate` proves how good its plans are, and takes ten to a
hundred times as long.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from space.allocate import constant_bytes, groups_of, options_of, priced, table_of
from space.choices import Option, plan_of
from space.layout import Layout
from space.limits import Limits
from space.plan import NO_HEAL, Heal, Plan
from space.policy import Loss, Policy, exponents_of, multipliers, split_loss


class Table:
    """Everything that may be chosen, on arrays, and the plans that what it costs makes."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.names, self.options, groups = groups_of(limits, lambda _name, _option: 0.0)
        self._most = limits.size_range.bound_bytes - 1 - constant_bytes(limits)
        self._sizes, values = table_of(groups)
        self._there = np.isfinite(values)

    def plan(self, losses: NDArray[np.float64], heal: Heal = NO_HEAL) -> Plan | None:
        """About the plan whose items' losses (items,), group after group, have the least sum.

        None where prices find none inside the limits.
        """
        values = np.full(self._sizes.shape, -np.inf)
        values[self._there] = -losses
        chosen, _, _ = priced(self._sizes, values, self._most)
        if chosen is None:
            return None
        plan = plan_of(self._limits.layout, options_of(self.names, self.options, chosen), heal)
        return plan if self._limits.hold(plan) else None


class Drafts:
    """Plans inside limits, of policies on one loss."""

    def __init__(self, limits: Limits, loss: Loss) -> None:
        self._table = Table(limits)
        self._terms = Terms(limits.layout, loss, self._table.names, self._table.options)

    def plan(self, policy: Policy, heal: Heal = NO_HEAL) -> Plan | None:
        """About the plan with the least loss by a policy; None where prices find none inside the limits."""
        return self._table.plan(self._terms.losses(policy), heal)


class Terms:
    """Losses of items by policies: `space.policy.policy_loss`, for all options at once.

    An item's loss is the sum over its choices of 2^w (g 2^v + c)^p, in which w and v are sums of multipliers.
    """

    def __init__(
        self, layout: Layout, loss: Loss, names: list[tuple[str, ...]], options: list[list[tuple[Option, ...]]]
    ) -> None:
        self.multipliers = list(multipliers(layout))
        column = {name: i for i, name in enumerate(self.multipliers)}
        split, exponents = split_loss(layout, loss), exponents_of(layout)
        items = [(several, joint) for several, group in zip(names, options, strict=True) for joint in group]
        terms = [
            (item, name, option)
            for item, (several, joint) in enumerate(items)
            for name, option in zip(several, joint, strict=True)
        ]
        self._items = len(items)
        self._of = np.array([item for item, _, _ in terms])
        self.goes, self.coarse = np.array([split(name, option) for _, name, option in terms]).T
        self.weights, self.inside = np.zeros((2, len(terms), len(column)))
        for row, (_, name, option) in enumerate(terms):
            weight, inside = exponents(name, option)
            for multiplier, share in weight.items():
                self.weights[row, column[multiplier]] = share
            if inside is not None:
                self.inside[row, column[inside]] = 1.0

    def losses(self, policy: Policy) -> NDArray[np.float64]:
        """Of every item (items,), group after group."""
        powers = np.array([policy[name] for name in self.multipliers])
        goes = self.goes * 2 ** (self.inside @ powers)
        terms = 2 ** (self.weights @ powers) * (goes + self.coarse) ** 2 ** policy["power"]
        found = np.zeros(self._items)
        np.add.at(found, self._of, terms)
        return found
