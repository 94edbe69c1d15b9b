"""Many plans of policies at once: what the allocator would make of them, near enough to compare, in milliseconds.

Prices of bytes alone, on arrays that are made once; `space.allocate` proves how good its plans are, and takes ten to a
hundred times as long.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from space.allocate import constant_bytes, groups_of, priced
from space.choices import VOCABULARY, Option, plan_of
from space.limits import Limits
from space.plan import NO_HEAL, Heal, Plan, Sublayer
from space.policy import Loss, Policy, multipliers, split_loss


class Drafts:
    """Plans inside limits, of policies on one loss."""

    def __init__(self, limits: Limits, loss: Loss) -> None:
        self._limits = limits
        self._names, self._options, groups = groups_of(limits, lambda _name, _option: 0.0)
        self._most = limits.size_range.bound_bytes - 1 - constant_bytes(limits)
        shape = len(groups), max(map(len, groups))
        self._sizes = np.zeros(shape)
        self._there = np.zeros(shape, dtype=bool)
        for g, group in enumerate(groups):
            self._sizes[g, : len(group)] = [item.size_bytes for item in group]
            self._there[g, : len(group)] = True
        self._terms = _Terms(limits, loss, self._names, self._options)

    def plan(self, policy: Policy, heal: Heal = NO_HEAL) -> Plan | None:
        """About the plan with the least loss by a policy; None where prices find none inside the limits."""
        values = np.full(self._sizes.shape, -np.inf)
        values[self._there] = -self._terms.losses(policy)
        chosen, _, _ = priced(self._sizes, values, self._most)
        if chosen is None:
            return None
        found = {
            name: option
            for several, group, i in zip(self._names, self._options, chosen, strict=True)
            for name, option in zip(several, group[i], strict=True)
        }
        plan = plan_of(self._limits.layout, found, heal)
        return plan if self._limits.hold(plan) else None


class _Terms:
    """Losses of items by policies: `space.policy.policy_loss`, for all options at once.

    An item's loss is the sum over its choices of 2^w (g 2^v + c)^p, in which w and v are sums of multipliers.
    """

    def __init__(
        self, limits: Limits, loss: Loss, names: list[tuple[str, ...]], options: list[list[tuple[Option, ...]]]
    ) -> None:
        self._multipliers = list(multipliers(limits.layout))
        column = {name: i for i, name in enumerate(self._multipliers)}
        depths = {tower.name: max(1, tower.layers - 1) for tower in limits.layout.towers}
        split = split_loss(limits.layout, loss)
        rows: list[tuple[int, float, float]] = []
        weights: list[Mapping[int, float]] = []
        inside: list[Mapping[int, float]] = []
        item = 0
        for several, group in zip(names, options, strict=True):
            for joint in group:
                for name, option in zip(several, joint, strict=True):
                    rows.append((item, *split(name, option)))
                    if isinstance(option, Sublayer):
                        tower, index, part = name.split(".")
                        later = 2 * int(index) / depths[tower] - 1
                        weights.append({column[f"{tower}.{part}"]: 1.0, column[f"{tower}.later"]: later})
                        inside.append({column[f"{part}.width" if option.kept else f"{tower}.removal"]: 1.0})
                    else:
                        weights.append({column[name if name == VOCABULARY else "tables"]: 1.0})
                        inside.append({})
                item += 1
        self._items = item
        self._of = np.array([row[0] for row in rows])
        self._goes, self._coarse = (np.array([row[i] for row in rows]) for i in (1, 2))
        self._weights, self._inside = self._matrix(weights), self._matrix(inside)

    def _matrix(self, rows: list[Mapping[int, float]]) -> NDArray[np.float64]:
        found = np.zeros((len(rows), len(self._multipliers)))
        for i, row in enumerate(rows):
            for column, share in row.items():
                found[i, column] = share
        return found

    def losses(self, policy: Policy) -> NDArray[np.float64]:
        """Of every item (items,), group after group."""
        powers = np.array([policy[name] for name in self._multipliers])
        goes = self._goes * 2 ** (self._inside @ powers)
        terms = 2 ** (self._weights @ powers) * (goes + self._coarse) ** 2 ** policy["power"]
        found = np.zeros(self._items)
        np.add.at(found, self._of, terms)
        return found
