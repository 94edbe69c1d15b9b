"""Values of options learnt from trials: what every option costs, known by halves before and better with every trial.

What options cost by themselves, measured, is where it begins. Powers of two, unknown numbers with a prior around 0, say
in what that misleads: those of policies (`space.policy`), which sublayers of a part, a tower or an end of it share, and
each choice's own. So what a trial says of an option it says of options like it, of those of the same sublayer most. The
logarithm of a plan's loss is that of the sum over its options, and interactions on top; made linear where the trials
are likeliest it is a Bayesian linear model, from which values are drawn (Thompson 1933).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular

from search.judge import logs_of
from space.choices import Option, choices, choices_of, sizes
from space.drafts import Table, Terms
from space.genes import swapped
from space.layout import Layout
from space.limits import Limits
from space.plan import Heal, Plan, Sublayer
from space.policy import Loss, multipliers

# Prior deviations: of policies' multipliers in shares of their ranges; of each choice's own, of all it costs and of
# what goes, in powers of two; of the loss's level and of interactions, in nats.
_SHARED, _OWN, _OWN_INSIDE, _LEVEL, _INTERACTION = 0.25, 0.3, 0.45, 1.0, 0.3
# Deviation of a loss's logarithm, how it grows with what the loss is above the best, in nats, and up to where.
_NOISE, _FARTHER, _FARTHEST = 0.15, 0.5, 3.0
# What share of its deviations a draw is from the mean: whole ones go by what nobody has tried.
_DRAWN_IN = 0.3
# How many steps of sizes and rates a plan is from one of the best, between these, and how far down the ranks that is on
# the mean.
_FAR, _DOWN = (1.0, 8.0), 1.5
# Prices of a step that are tried for that, and the least and the largest.
_PRICES, _PRICE_ENDS = 8, (1e-4, 1.0)
# Steps of Gauss and Newton at most, and the share of the squares below which there are no more.
_STEPS, _STILL = 15, 1e-4
_LEAST = 1e-9

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Uses:
    """What proposals go by; an ablation leaves one of it out."""

    learning: bool = True
    interactions: bool = True


EVERYTHING = Uses()


@dataclass(frozen=True)
class Belief:
    """A normal distribution of the unknown numbers: its mean, and the lower Cholesky factor of its precision."""

    mean: Array
    factor: Array

    def drawn(self, rng: random.Random, share: float) -> Array:
        """One draw, at a share of its deviations from the mean."""
        white = np.array([rng.gauss(0, 1) for _ in self.mean])
        found: Array = self.mean + share * solve_triangular(self.factor, white, lower=True, trans="T")
        return found


def linear_belief(table: Array, values: Array, noise: Array, prior: Array) -> Belief:
    """Of weights of columns: values (n,) are `table` (n, weights) times them, give or take `noise` (deviations, (n,)).

    Before, weights have a mean of 0 and the deviations `prior`. Bishop 2006, section 3.3.1.
    """
    white = table / noise[:, None]
    precision = white.T @ white + np.diag(1 / prior**2)
    factor = cho_factor(precision, lower=True)
    mean: Array = cho_solve(factor, white.T @ (values / noise))
    return Belief(mean, np.tril(factor[0]))


class Values:
    """Proposes plans inside limits by what options cost: `loss` before any trial, better after each."""

    def __init__(self, limits: Limits, loss: Loss, heal: Heal, uses: Uses = EVERYTHING) -> None:
        self._limits, self._heal, self._uses = limits, heal, uses
        self._table, self._model = Table(limits), Model(limits.layout, loss)
        place = self._model.place
        rows = [
            (item, place[name, option])
            for item, (several, joint) in enumerate(
                (several, joint)
                for several, group in zip(self._table.names, self._table.options, strict=True)
                for joint in group
            )
            for name, option in zip(several, joint, strict=True)
        ]
        self._items, self._options = np.array(rows).T

    def after(self, plans: Sequence[Plan], losses: Sequence[float]) -> Callable[[int], Plan]:
        """By seed, plans near one of the best, each by a draw of what options cost; deterministic.

        `plans` (at least one) and their losses stand in the order in which they were tried.
        """
        chosen, logs = np.array([self._model.row(plan) for plan in plans]), logs_of(losses)
        belief = self._model.learnt(chosen, logs) if self._uses.learning else self._model.unlearnt()
        best_first = [plans[i] for i in np.argsort(losses, kind="stable")]
        return lambda seed: self._proposed(best_first, belief, seed)

    def _proposed(self, best_first: Sequence[Plan], belief: Belief, seed: int) -> Plan:
        rng, model = random.Random(seed), self._model
        parent = best_first[min(int(rng.expovariate(1 / _DOWN)), len(best_first) - 1)]
        draw = belief.drawn(rng, _DRAWN_IN)
        if not self._uses.interactions:
            draw[model.interactions] = 0
        now = model.row(parent)
        costs, away = model.costs(draw, now), model.steps_from(now)
        plan = self._far_as(costs, away, math.exp(rng.uniform(*map(math.log, _FAR))))
        return plan or swapped(replace(parent, heal=self._heal), self._limits, seed)

    def _far_as(self, costs: Array, away: Array, steps: float) -> Plan | None:
        """The plan of these costs about so many steps away, by a price of every step; None if none is away at all."""
        (low, high), best = _PRICE_ENDS, None
        for _ in range(_PRICES):
            price = math.sqrt(low * high)
            items = np.bincount(self._items, (costs + price * away)[self._options]).astype(float)
            plan = self._table.plan(items, self._heal)
            if plan is None or not self._limits.hold(plan):
                break
            far = away[self._model.row(plan)].sum()
            if far:
                best = plan
            low, high = (price, high) if far > steps else (low, price)
        return best


class Model:
    """What is unknown of options' costs, and the logarithm of a plan's loss by it.

    Options stand choice after choice; a plan is a row of their places (choices,). Numbers are the policy's multipliers,
    of each choice its own multiplier of all, of what a removed sublayer costs and of what a narrower one does; then the
    level; then interactions: the squared share of a tower that is gone, and that of neighbours that are.
    """

    def __init__(self, layout: Layout, loss: Loss) -> None:
        self._layout = layout
        found = choices(layout)
        self.place: dict[tuple[str, Option], int] = {}
        for name, options in found.items():
            self.place |= {(name, option): len(self.place) + i for i, option in enumerate(options)}
        every = list(self.place)
        self._terms = Terms(layout, loss, [(name,) for name, _ in every], [[(option,)] for _, option in every])
        self._gone = np.array([isinstance(option, Sublayer) and not option.kept for _, option in every])
        self._narrow = np.array([isinstance(option, Sublayer) and option.kept > 0 for _, option in every])
        number = {name: i for i, name in enumerate(found)}
        self._choice = np.array([number[name] for name, _ in every])
        self._towers = [
            [[number[f"{tower.name}.{i}.{part}"] for i in range(tower.layers)] for part in ("attention", "ffn")]
            for tower in layout.towers
        ]
        self._levels = np.array([_level(layout, name, option) for name, option in every])
        ranges = [high - low for low, high in multipliers(layout).values()]
        self._shared, self._choices = len(ranges), len(found)
        own = [_OWN] * len(found) + [_OWN_INSIDE] * (2 * len(found))
        pairs = [_INTERACTION] * (2 * len(layout.towers))
        self.prior = np.array([*(_SHARED * one for one in ranges), *own, _LEVEL, *pairs])
        self.interactions = slice(len(self.prior) - len(pairs), len(self.prior))

    def row(self, plan: Plan) -> NDArray[np.int64]:
        """The places of a plan's options."""
        return np.array([self.place[one] for one in choices_of(self._layout, plan).items()])

    def losses(self, numbers: Array) -> tuple[Array, Array, Array, Array]:
        """What every option costs, and its derivatives by the exponents of all, of what goes, and by the power."""
        shared, own = numbers[: self._shared], numbers[self._shared :][: 3 * self._choices]
        everything, gone, narrow = own.reshape(3, -1)[:, self._choice]
        power = 2 ** shared[-1]
        goes = self._terms.goes * 2 ** (self._terms.inside @ shared + gone * self._gone + narrow * self._narrow)
        inner = goes + self._terms.coarse + _LEAST
        found = 2 ** (self._terms.weights @ shared + everything) * inner**power
        by_power = found * np.log(inner) * power * math.log(2)
        return found, found * math.log(2), found * power * goes / inner * math.log(2), by_power

    def expected(self, numbers: Array, chosen: NDArray[np.int64]) -> Array:
        """The logarithm of the loss of each plan, (n, choices) to (n,)."""
        level = numbers[self.interactions.start - 1]
        summed = np.log(self.losses(numbers)[0][chosen].sum(1))
        found: Array = level + summed + self._together(self._gone[chosen]) @ numbers[self.interactions]
        return found

    def slopes(self, numbers: Array, chosen: NDArray[np.int64]) -> Array:
        """Derivatives of `expected` by each number (n, numbers)."""
        losses, by_all, by_goes, by_power = self.losses(numbers)
        total = losses[chosen].sum(1, keepdims=True)
        of_all, of_goes = by_all[chosen] / total, by_goes[chosen] / total
        shared = np.einsum("nc,ncm->nm", of_all, self._terms.weights[chosen])
        shared += np.einsum("nc,ncm->nm", of_goes, self._terms.inside[chosen])
        shared[:, -1] += by_power[chosen].sum(1) / total[:, 0]
        own = [of_all, of_goes * self._gone[chosen], of_goes * self._narrow[chosen]]
        return np.concatenate([shared, *own, np.ones_like(total), self._together(self._gone[chosen])], 1)

    def _together(self, gone: NDArray[np.bool_]) -> Array:
        """Interactions of what is gone (n, choices): of each tower the squared share, and the share of neighbours."""
        columns = []
        for parts in self._towers:
            neighbours = [gone[:, one] & gone[:, next_] for part in parts for one, next_ in pairwise(part)]
            columns.append(np.square(gone[:, np.concatenate(parts)].mean(1)))
            columns.append(np.mean(neighbours, 0) if neighbours else np.zeros(len(gone)))
        return np.stack(columns, 1)

    def unlearnt(self) -> Belief:
        """Before any trial."""
        return Belief(np.zeros_like(self.prior), np.diag(1 / self.prior))

    def learnt(self, chosen: NDArray[np.int64], logs: Array) -> Belief:
        """After trials of plans (n, choices) whose losses had these logarithms: Laplace's approximation.

        Gauss's and Newton's steps, made shorter until they help (Marquardt), lead to where it is made.
        """
        noise = _NOISE * np.exp(np.minimum(_FARTHER * (logs - logs.min()), _FARTHEST))
        numbers, damping = np.zeros_like(self.prior), 1.0

        def squares(at: Array) -> float:
            errors = (logs - self.expected(at, chosen)) / noise
            return float(errors @ errors + np.square(at / self.prior).sum())

        now = squares(numbers)
        for _ in range(_STEPS):
            slopes, rest = self.slopes(numbers, chosen), logs - self.expected(numbers, chosen)
            white = slopes / noise[:, None]
            precision = white.T @ white + np.diag(1 / self.prior**2)
            uphill = white.T @ (rest / noise) - numbers / self.prior**2
            before = now
            while damping < 1e6:
                step = np.linalg.solve(precision + damping * np.diag(np.diag(precision)), uphill)
                if (then := squares(numbers + step)) < now:
                    numbers, now, damping = numbers + step, then, damping / 6
                    break
                damping *= 4
            if before - now <= _STILL * max(1.0, now):
                break
        slopes = self.slopes(numbers, chosen)
        rest = logs - self.expected(numbers, chosen) + slopes @ numbers
        return linear_belief(slopes, rest, noise, self.prior)

    def costs(self, numbers: Array, now: NDArray[np.int64]) -> Array:
        """What every option adds to the logarithm of the loss, about, in a plan that is else as the one of this row."""
        losses = self.losses(numbers)[0]
        costs: Array = losses / losses[now].sum()
        gone = np.repeat(self._gone[now][None], self._choices, 0)
        diagonal = np.arange(self._choices)
        without, with_it = gone.copy(), gone
        without[diagonal, diagonal], with_it[diagonal, diagonal] = True, False
        apart = (self._together(without) - self._together(with_it)) @ numbers[self.interactions]
        costs[self._gone] += apart[self._choice[self._gone]]
        return costs

    def steps_from(self, now: NDArray[np.int64]) -> Array:
        """How many steps of size and rate every option is from the one that the row has of its choice."""
        there = self._levels[now][self._choice]
        size, rate = np.abs(self._levels - there).T
        rate = np.where(self._gone | self._gone[now][self._choice], 0, rate)
        found: Array = size + rate
        return found


def _level(layout: Layout, name: str, option: Option) -> tuple[float, float]:
    """Which step of its ladder of sizes, and which of the rates an option is."""
    if isinstance(option, int):
        return layout.vocabulary_sizes.index(option), 0
    if not isinstance(option, Sublayer):
        return 0, layout.rates.index(option)
    stacks = {tower.name: tower for tower in layout.towers}
    tower, _, part = name.split(".")
    return sizes(stacks[tower], part).index(option.kept), layout.rates.index(option.rate) if option.kept else 0
