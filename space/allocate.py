"""The exact allocator: one option of every group, the largest total value, bytes bounded above and below.

A multiple-choice knapsack (Sinha and Zoltners 1979). Lagrangian relaxation (Fisher 1981) comes first: its dual value
proves how good its choice is, and where that is not good enough, which items are left for HiGHS, through
`scipy.optimize.milp`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from space.choices import VOCABULARY, Option, choices_of, is_hearing, plan_of
from space.errors import UserError
from space.limits import Limits, allowed_options, option_bytes, smallest_plan
from space.plan import NO_HEAL, Heal, Plan, Sublayer
from space.size import HEADER_FRAME_BYTES, header_entry_bytes, plan_entry_bytes

# Where the price of a byte begins, by what it grows until its choice fits, and how often it is mended then at most.
_FIRST_PRICE, _DEARER, _CROSSINGS = 1e-12, 1e3, 100
# Bytes are scaled so that the bound is at most this: HiGHS allows rows to be violated by 1e-6.
_LARGEST_ROW = 1e4


@dataclass(frozen=True)
class Item:
    """An option of a group. At least one chosen item of all groups must be `needed`, where any is."""

    size_bytes: int
    value: float
    needed: bool = False


@dataclass(frozen=True)
class Allocation:
    """The item chosen of each group, their sums, and the most value that any choice could have (proven)."""

    chosen: tuple[int, ...]
    size_bytes: int
    value: float
    value_bound: float

    @property
    def gap(self) -> float:
        """How far the optimum may be above, relative to the value."""
        return max(0.0, self.value_bound - self.value) / max(abs(self.value), 1e-12)


Groups = Sequence[Sequence[Item]]


def allocate(groups: Groups, most_bytes: int, least_bytes: int = 0, *, gap: float = 0.0) -> Allocation | None:
    """The choice with the largest value among those of `least_bytes` to `most_bytes`; None where there is none.

    Deterministic. With `gap` above 0 any choice may be returned whose relative gap is proven to be at most that.
    """
    relaxed = _lagrangian(groups, most_bytes, least_bytes)
    if relaxed.found is not None and relaxed.found.gap <= gap:
        return relaxed.found
    kept = [_undominated(group) for group in groups]
    if relaxed.found is not None:
        kept = _promising(groups, kept, relaxed)
    found = _exact(groups, kept, most_bytes, 0, gap)
    if found is None:
        return relaxed.found
    if found.size_bytes >= least_bytes:
        bound = min(found.value_bound, relaxed.value_bound)
        better = max(filter(None, (found, relaxed.found)), key=lambda one: one.value)
        return replace(better, value_bound=max(better.value, bound))
    # The best choice leaves too many bytes: items that are worse and larger may be needed.
    return _exact(groups, [list(range(len(group))) for group in groups], most_bytes, least_bytes, gap)


def _undominated(group: Sequence[Item]) -> list[int]:
    """Indices of the items that no other beats in bytes and value; a needed one is beaten by needed ones only."""
    order = sorted(range(len(group)), key=lambda i: (group[i].size_bytes, -group[i].value, not group[i].needed, i))
    kept, best, best_needed = [], -np.inf, -np.inf
    for i in order:
        if group[i].value > (best_needed if group[i].needed else best):
            kept.append(i)
            best = max(best, group[i].value)
            best_needed = max(best_needed, group[i].value) if group[i].needed else best_needed
    return kept


def _exact(
    groups: Groups, kept: Sequence[Sequence[int]], most_bytes: int, least_bytes: int, gap: float
) -> Allocation | None:
    index = [(g, i) for g, group in enumerate(kept) for i in group]
    items = [groups[g][i] for g, i in index]
    sizes = np.array([item.size_bytes for item in items], dtype=float)
    values = np.array([item.value for item in items])
    group_of = np.array([g for g, _ in index])
    scale = max(1.0, most_bytes / _LARGEST_ROW)
    ones = np.ones(len(items))
    picks = csr_array((ones, (group_of, np.arange(len(items)))), shape=(len(groups), len(items)))
    needed = np.array([item.needed for item in items], dtype=float)
    # HiGHS stops within 1e-6 of the best, whatever the scale.
    worth = _LARGEST_ROW / max(float(np.ptp(values)), 1e-300)
    constraints = [LinearConstraint(picks, 1, 1)]
    if needed.any():
        constraints.append(LinearConstraint(csr_array(needed[None]), 1, np.inf))
    lower, upper, bound = least_bytes, most_bytes, float("inf")
    while lower <= upper:
        room = LinearConstraint(csr_array(sizes[None] / scale), lower / scale, upper / scale)
        result = milp(
            -worth * (values - values.mean()),
            constraints=[*constraints, room],
            integrality=ones,
            bounds=Bounds(0, 1),
            options={"mip_rel_gap": gap},
        )
        if result.x is None:
            return None
        # Of the first answer: bounds made tighter prove nothing about the ones asked for.
        if bound == float("inf"):
            bound = (-float(result.mip_dual_bound) / worth) + len(groups) * float(values.mean())
        chosen = _chosen(result.x, index, len(groups))
        total = sum(groups[g][i].size_bytes for g, i in enumerate(chosen))
        # Within the solver's tolerance of the bounds, but outside of them: asked again with bounds as much tighter.
        if total > most_bytes:
            upper -= total - most_bytes
        elif total < least_bytes:
            lower += least_bytes - total
        else:
            value = sum(groups[g][i].value for g, i in enumerate(chosen))
            return Allocation(chosen, total, value, max(value, bound))
    return None


def _chosen(x: NDArray[np.float64], index: Sequence[tuple[int, int]], groups: int) -> tuple[int, ...]:
    """The item of each group whose variable is largest."""
    best: list[tuple[float, int]] = [(-1.0, 0)] * groups
    for amount, (g, i) in zip(x, index, strict=True):
        if amount > best[g][0]:
            best[g] = (float(amount), i)
    return tuple(i for _, i in best)


@dataclass(frozen=True)
class _Relaxed:
    """A choice inside the bounds, if one was found, and the price of a byte whose dual value is `value_bound`."""

    found: Allocation | None
    price: float
    value_bound: float


def _promising(groups: Groups, kept: Sequence[Sequence[int]], relaxed: _Relaxed) -> list[list[int]]:
    """The items that a choice better than the one found can hold.

    At the price, a choice with an item is worth at most the dual value less what the item falls short of its group's
    best (reduced cost fixing; Sinha and Zoltners 1979).
    """
    assert relaxed.found is not None
    slack = relaxed.value_bound - relaxed.found.value
    slack += 1e-9 * max(1.0, abs(relaxed.value_bound))
    remaining = []
    for group, indices, chosen in zip(groups, kept, relaxed.found.chosen, strict=True):
        rewards = {i: group[i].value - relaxed.price * group[i].size_bytes for i in {*indices, chosen}}
        best = max(item.value - relaxed.price * item.size_bytes for item in group)
        remaining.append(sorted(i for i, reward in rewards.items() if best - reward <= slack or i == chosen))
    return remaining


def _lagrangian(groups: Groups, most_bytes: int, least_bytes: int) -> _Relaxed:
    """Of the price of a byte that proves most, where what it finds may be chosen."""
    sizes, values = table_of(groups)
    picked, price, value_bound = priced(sizes, values, most_bytes)
    if picked is None:
        return _Relaxed(None, price, value_bound)
    items = [groups[g][i] for g, i in enumerate(picked)]
    size_bytes, value = sum(item.size_bytes for item in items), sum(item.value for item in items)
    must = any(item.needed for group in groups for item in group)
    if size_bytes < least_bytes or (must and not any(item.needed for item in items)):
        return _Relaxed(None, price, value_bound)
    return _Relaxed(Allocation(picked, size_bytes, value, max(value, value_bound)), price, value_bound)


def table_of(groups: Groups) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bytes and values of items (groups, options); where a group has fewer options the value is -inf."""
    widest = max(map(len, groups))
    sizes = np.zeros((len(groups), widest))
    values = np.full((len(groups), widest), -np.inf)
    for g, group in enumerate(groups):
        sizes[g, : len(group)] = [item.size_bytes for item in group]
        values[g, : len(group)] = [item.value for item in group]
    return sizes, values


def priced(
    sizes: NDArray[np.float64], values: NDArray[np.float64], most_bytes: int
) -> tuple[tuple[int, ...] | None, float, float]:
    """Looks for the price of a byte that proves most, then spends what is left greedily.

    Of the items of a table (`table_of`) the one chosen of each group, or None where nothing fits; the price, and the
    most value that it proves any choice to have.

    What a price proves is convex in it and piecewise linear: the next price is where the lines of a choice that fits
    and of one that does not cross, until no choice is better there (Kelley 1960, in one dimension).
    """
    inside = outside = best = _at_price(0.0, sizes, values, most_bytes)
    if np.where(np.isfinite(values), sizes, np.inf).min(1).sum() > most_bytes:
        return None, best.price, best.bound
    dear = _FIRST_PRICE
    while inside.size_bytes > most_bytes:
        outside, inside = inside, _at_price(dear, sizes, values, most_bytes)
        best, dear = min(best, inside, key=_bound), dear * _DEARER
    for _ in range(_CROSSINGS if inside is not outside else 0):
        crossing = (outside.value - inside.value) / (outside.size_bytes - inside.size_bytes)
        at = _at_price(crossing, sizes, values, most_bytes)
        best = min(best, at, key=_bound)
        if not inside.size_bytes < at.size_bytes < outside.size_bytes:
            break
        if at.size_bytes <= most_bytes:
            inside = at
        else:
            outside = at
    picked = tuple(int(i) for i in _spend(inside.chosen, sizes, values, most_bytes))
    return picked, best.price, best.bound


@dataclass(frozen=True)
class _Priced:
    """The best choice at a price, its bytes and value, and the bound on any choice's value that it proves."""

    price: float
    chosen: NDArray[np.int64]
    size_bytes: float
    value: float
    bound: float


def _at_price(price: float, sizes: NDArray[np.float64], values: NDArray[np.float64], most_bytes: int) -> _Priced:
    chosen = (values - price * sizes).argmax(1)
    rows = np.arange(len(chosen))
    size_bytes, value = float(sizes[rows, chosen].sum()), float(values[rows, chosen].sum())
    return _Priced(price, chosen, size_bytes, value, value + price * (most_bytes - size_bytes))


def _bound(priced: _Priced) -> float:
    return priced.bound


def _spend(
    chosen: NDArray[np.int64], sizes: NDArray[np.float64], values: NDArray[np.float64], most_bytes: int
) -> NDArray[np.int64]:
    """Takes the single exchange that gains most value and still fits, until none does."""
    rows = np.arange(len(chosen))
    chosen = chosen.copy()
    groups, items = np.nonzero(values > values[rows, chosen][:, None])
    while True:
        room = most_bytes - sizes[rows, chosen].sum()
        gain = values[groups, items] - values[groups, chosen[groups]]
        more = sizes[groups, items] - sizes[groups, chosen[groups]]
        left = (gain > 0) & (more <= room)
        if not left.any():
            return chosen
        # exchanges only get fewer: room shrinks, and what is chosen gets better
        groups, items, gain = groups[left], items[left], gain[left]
        best = int(gain.argmax())
        chosen[groups[best]] = items[best]


def allocate_plan(
    limits: Limits, value: Callable[[str, Option], float], *, gap: float = 0.0, heal: Heal = NO_HEAL
) -> tuple[Plan, Allocation]:
    """The plan inside the limits with the largest sum of values, given for every option of every choice.

    Bytes are exact but for the digits of the header's offsets, which are counted as the largest there can be: a plan
    may leave some tens of bytes more unused than it would have to. Raises UserError where no plan is inside.
    """
    limits.check()
    names, options, groups = groups_of(limits, value)
    constant = constant_bytes(limits)
    most = limits.size_range.bound_bytes - 1 - constant
    least = limits.size_range.least_bytes - constant
    while True:
        found = allocate(groups, most, max(0, least), gap=gap)
        if found is None and limits.hold(smallest_plan(limits)):
            # within the bytes that the header's offsets are counted too long
            plan = smallest_plan(limits)
            worth = sum(value(name, option) for name, option in choices_of(limits.layout, plan).items())
            return replace(plan, heal=heal), Allocation((), limits.bytes_of(plan), worth, worth)
        if found is None:
            raise UserError(
                f"{limits.size_range.name}: no plan falls between its bounds"
                + (f" with {limits.pins}; loosen one" if limits.pins.texts else "; choose a wider range")
            )
        plan = plan_of(limits.layout, options_of(names, options, found.chosen), heal)
        size = limits.bytes_of(plan)
        assert size < limits.size_range.bound_bytes
        if size >= limits.size_range.least_bytes:
            return plan, found
        least += limits.size_range.least_bytes - size


def groups_of(
    limits: Limits, value: Callable[[str, Option], float]
) -> tuple[list[tuple[str, ...]], list[list[tuple[Option, ...]]], list[list[Item]]]:
    """Choices that are made together, their joint options and what each weighs and is worth.

    A sublayer is a group by itself. The vocabulary's size decides what the embedding and lm_head weigh, so the three
    are one group.
    """
    layout, allowed = limits.layout, allowed_options(limits)
    together = tuple(name for name in ("embedding", "lm_head") if name in layout.tables)
    names: list[tuple[str, ...]] = []
    options: list[list[tuple[Option, ...]]] = []
    groups: list[list[Item]] = []
    weigh = _Scale(limits)
    for name, alone in allowed.items():
        if name in together or name == VOCABULARY:
            continue
        needed = is_hearing(name)
        names.append((name,))
        options.append([(option,) for option in alone])
        groups.append(
            [
                Item(size_bytes, value(name, option), needed and isinstance(option, Sublayer) and option.kept > 0)
                for option, size_bytes in zip(alone, weigh(name, alone), strict=True)
            ]
        )
    names.append((VOCABULARY, *together))
    options.append([])
    groups.append([])
    for tokens in allowed[VOCABULARY]:
        assert isinstance(tokens, int)
        fixed = limits.fixed_bytes(tokens) + len(str(tokens))
        parts = [zip(allowed[name], weigh(name, allowed[name], tokens), strict=True) for name in together]
        for joint in product(*parts):
            rates = [rate for rate, _ in joint]
            options[-1].append((tokens, *rates))
            worth = value(VOCABULARY, tokens) + sum(
                value(name, rate) for name, rate in zip(together, rates, strict=True)
            )
            groups[-1].append(Item(fixed + sum(size_bytes for _, size_bytes in joint), worth))
    return names, options, groups


def options_of(
    names: Sequence[tuple[str, ...]], options: Sequence[Sequence[tuple[Option, ...]]], chosen: Sequence[int]
) -> dict[str, Option]:
    """The option of every choice, from the joint option that is chosen of each group."""
    return {
        name: option
        for several, group, i in zip(names, options, chosen, strict=True)
        for name, option in zip(several, group[i], strict=True)
    }


class _Scale:
    """What options weigh in tensors, header and plan; layers with the same options and names as long weigh the same."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._known: dict[tuple[str, int, int, int], list[int]] = {}

    def __call__(self, name: str, options: tuple[Option, ...], vocabulary: int = 0) -> list[int]:
        kind = name.rsplit(".", 1)[-1] + name.split(".", 1)[0]
        key = (kind, len(name), id(options), vocabulary)
        if key not in self._known:
            self._known[key] = [self._one(name, option, vocabulary) for option in options]
        return self._known[key]

    def _one(self, name: str, option: Option, vocabulary: int) -> int:
        assert not isinstance(option, int)
        tensor = option_bytes(self._limits.layout, name, option, vocabulary)
        header = header_entry_bytes(name, tensor, self._limits.size_range.bound_bytes) if tensor else 0
        return tensor + header + plan_entry_bytes(option)


def constant_bytes(limits: Limits) -> int:
    """What every plan weighs beside its options: last norms, the header's frame, the rest of the JSON."""
    plan = smallest_plan(limits)
    entries = [
        len(str(option)) if isinstance(option, int) else plan_entry_bytes(option)
        for option in choices_of(limits.layout, plan).values()
    ]
    norms = 2 * limits.layout.final_norms
    frame = header_entry_bytes("norms", norms, limits.size_range.bound_bytes) + HEADER_FRAME_BYTES
    return norms + frame + len(plan.to_json().encode()) - sum(entries)
