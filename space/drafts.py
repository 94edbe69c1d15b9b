"""Plans of many policies: what the allocator would make of them, near enough to compare, in milliseconds.

Prices of bytes alone, on arrays that are made once. Most often they prove a plan to be as good as is asked for;
`space.allocate` has a solver for where they do not, and takes ten to a hundred times as long.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from space.allocate import constant_bytes, groups_of, options_of, priced, table_of
from space.choices import Option, hears, plan_of
from space.layout import Layout
from space.limits import Limits
from space.plan import NO_HEAL, Heal, Plan
from space.policy import Loss, Policy, exponents_of, multipliers, split_loss


class Table:
    """Everything that may be chosen, on arrays, and the plans that what it costs makes."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.names, self.options, groups = groups_of(limits, lambda _name, _option: 0.0)
        constant = constant_bytes(limits)
        self._most = limits.size_range.bound_bytes - 1 - constant
        self._least = limits.size_range.least_bytes - constant
        self._sizes, values = table_of(groups)
        self._there = np.isfinite(values)

    def plan(self, losses: NDArray[np.float64], heal: Heal = NO_HEAL) -> Plan | None:
        """About the plan whose items' losses (items,), group after group, have the least sum.

        None where prices find none that fills the range.
        """
        return self._found(losses, heal)[0]

    def proven(self, losses: NDArray[np.float64], heal: Heal, gap: float) -> Plan | None:
        """The allocator's plan; None where prices do not prove it to be within a relative gap."""
        plan, value, bound = self._found(losses, heal)
        if plan is None or bound - value > gap * abs(value):
            return None
        return plan if self._limits.hold(plan) else None

    def _found(self, losses: NDArray[np.float64], heal: Heal) -> tuple[Plan | None, float, float]:
        """A plan, its value, less its loss, and the most value that any plan can have."""
        values = np.full(self._sizes.shape, -np.inf)
        values[self._there] = -losses
        chosen, _, bound = priced(self._sizes, values, self._most)
        rows = np.arange(len(values))
        # header digits are counted as the most there can be, so that nothing is over the bound
        if chosen is None or self._sizes[rows, chosen].sum() < self._least:
            return None, 0.0, bound
        plan = plan_of(self._limits.layout, options_of(self.names, self.options, chosen), heal)
        return plan if hears(plan) else None, float(values[rows, chosen].sum()), bound


class Drafts:
    """Plans inside limits, of policies on one loss."""

    def __init__(self, limits: Limits, loss: Loss) -> None:
        self._table = Table(limits)
        self._terms = Terms(limits.layout, loss, self._table.names, self._table.options)

    def plan(self, policy: Policy, heal: Heal = NO_HEAL) -> Plan | None:
        """About the plan with the least loss by a policy; None where prices find none that fills the range."""
        return self._table.plan(self._terms.losses(policy), heal)

    def proven(self, policy: Policy, heal: Heal, gap: float) -> Plan | None:
        """The allocator's plan by a policy; None where prices do not prove it to be within a relative gap."""
        return self._table.proven(self._terms.losses(policy), heal, gap)


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
        # powers of two are taken once of all terms that have the same multipliers
        kinds: dict[tuple[tuple[tuple[str, float], ...], str | None], int] = {}
        found = [exponents(name, option) for _, name, option in terms]
        self._kind = np.array([kinds.setdefault((tuple(w.items()), inside), len(kinds)) for w, inside in found])
        self._kind_weights, self._kind_inside = np.zeros((2, len(kinds), len(column)))
        for (weight, inside), kind in kinds.items():
            for multiplier, share in weight:
                self._kind_weights[kind, column[multiplier]] = share
            if inside is not None:
                self._kind_inside[kind, column[inside]] = 1.0
        self.weights, self.inside = self._kind_weights[self._kind], self._kind_inside[self._kind]

    def losses(self, policy: Policy) -> NDArray[np.float64]:
        """Of every item (items,), group after group."""
        powers = np.array([policy[name] for name in self.multipliers])
        weights, inside = 2 ** (self._kind_weights @ powers), 2 ** (self._kind_inside @ powers)
        goes = self.goes * inside[self._kind]
        terms = weights[self._kind] * (goes + self.coarse) ** 2 ** policy["power"]
        found: NDArray[np.float64] = np.bincount(self._of, terms, self._items)  # type: ignore[assignment]
        return found
