"""The allocator against brute force, and its plans against the limits."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.layouts import find_anatomy
from space.allocate import Allocation, Item, allocate, allocate_plan
from space.bins import BIN_NUMBERS, bin_range, max_size_range
from space.choices import choices, choices_of, hears, plan_of
from space.errors import UserError
from space.layout import Layout
from space.limits import Limits, smallest_plan
from space.pins import read_pins
from space.prior import prior_loss
from tests.space.test_laws import READER, SMALL, TRIMMED, files, limits_of

ITEM = st.builds(Item, st.integers(0, 60), st.integers(-50, 50).map(float), st.booleans())
GROUPS = st.lists(st.lists(ITEM, min_size=1, max_size=5), min_size=1, max_size=5)


def brute_force(groups: Sequence[Sequence[Item]], most: int, least: int) -> float | None:
    """The largest value of any choice inside the bounds, by trying all."""
    must = any(item.needed for group in groups for item in group)
    values = [
        sum(item.value for item in chosen)
        for chosen in product(*groups)
        if least <= sum(item.size_bytes for item in chosen) <= most
        and (not must or any(item.needed for item in chosen))
    ]
    return max(values, default=None)


def check(found: Allocation, groups: Sequence[Sequence[Item]], most: int, least: int) -> None:
    chosen = [group[i] for group, i in zip(groups, found.chosen, strict=True)]
    assert found.size_bytes == sum(item.size_bytes for item in chosen)
    assert found.value == pytest.approx(sum(item.value for item in chosen))
    assert least <= found.size_bytes <= most


@given(GROUPS, st.integers(0, 200), st.integers(0, 150))
def test_it_finds_what_brute_force_finds(groups: list[list[Item]], most: int, least: int) -> None:
    best, found = brute_force(groups, most, least), allocate(groups, most, least)
    assert (found is None) == (best is None)
    if found is not None:
        check(found, groups, most, least)
        assert found.value == pytest.approx(best)


@given(GROUPS, st.integers(0, 200), st.integers(0, 150), st.sampled_from([0.01, 0.2]))
def test_an_allowed_gap_is_kept_and_its_bound_is_true(
    groups: list[list[Item]], most: int, least: int, gap: float
) -> None:
    best, found = brute_force(groups, most, least), allocate(groups, most, least, gap=gap)
    assert (found is None) == (best is None)
    if found is not None and best is not None:
        check(found, groups, most, least)
        assert found.gap <= gap + 1e-9
        assert found.value <= best + 1e-9
        assert best <= found.value_bound + 1e-6


@given(GROUPS, st.integers(0, 200), st.sampled_from([1e-7, 1e7]))
def test_the_scale_of_the_values_changes_nothing(groups: list[list[Item]], most: int, scale: float) -> None:
    scaled = [[Item(item.size_bytes, item.value * scale, item.needed) for item in group] for group in groups]
    best, found = brute_force(scaled, most, 0), allocate(scaled, most)
    assert (found is None) == (best is None)
    if found is not None and best is not None:
        assert found.value == pytest.approx(best, rel=1e-6, abs=1e-6 * scale)
        assert found.value_bound >= best - 1e-6 * scale


@given(
    st.sampled_from([SMALL, TRIMMED, READER]),
    st.sampled_from([1, 2, 3, 4]),
    st.sampled_from([[], ["decoder.first:keep"], ["lm_head:bits>=4"], ["decoder:keep"]]),
    st.sampled_from([0.0, 0.001]),
)
def test_plans_are_inside_their_limits(layout: Layout, number: int, texts: list[str], gap: float) -> None:
    try:
        limits = limits_of(layout, number, texts)
        limits.check()
    except UserError:
        return
    loss = prior_loss(limits.layout)
    plan, allocation = allocate_plan(limits, lambda name, option: -loss(name, option), gap=gap)
    assert limits.hold(plan)
    value = -sum(loss(name, option) for name, option in choices_of(limits.layout, plan).items())
    assert value == pytest.approx(allocation.value)
    assert allocation.gap <= gap + 1e-9


def test_it_beats_every_single_step_from_its_plan() -> None:
    limits = limits_of(TRIMMED, 3)
    loss = prior_loss(TRIMMED)
    plan, _ = allocate_plan(limits, lambda name, option: -loss(name, option))
    chosen = choices_of(TRIMMED, plan)
    before = sum(loss(name, option) for name, option in chosen.items())
    for name, options in choices(TRIMMED).items():
        for option in options:
            changed = {**chosen, name: option}
            after = sum(loss(other, kept) for other, kept in changed.items())
            if after < before - 1e-9:
                from_plan = limits.bytes_of(plan_of(TRIMMED, changed, plan.heal))
                # the header's offsets are counted at their longest, a few bytes a unit
                assert from_plan + 200 > limits.size_range.bound_bytes


@pytest.mark.parametrize("number", BIN_NUMBERS)
def test_every_bin_of_the_seven_b_is_reached(number: int) -> None:
    anatomy = find_anatomy("qwen2-audio-7b")
    layout = anatomy.layout
    limits = Limits(
        layout, bin_range(number, layout.source_bytes), files, read_pins(["vocabulary:whole", "tables:bits>=2"], layout)
    )
    if number == 5:
        with pytest.raises(UserError, match="vocabulary:whole"):
            limits.check()
        return
    loss = prior_loss(layout)
    plan, allocation = allocate_plan(limits, lambda name, option: -loss(name, option), gap=1e-3)
    assert limits.size_range.holds(limits.bytes_of(plan))
    assert allocation.gap <= 1e-3
    assert hears(plan)


@pytest.mark.parametrize("more", [1, 5, 20])
def test_a_bound_just_above_the_smallest_plan_has_a_plan(more: int) -> None:
    least = limits_of(SMALL, 3).bytes_of(smallest_plan(limits_of(SMALL, 3)))
    limits = Limits(SMALL, max_size_range(f"{least + more}B"), files)
    plan, _ = allocate_plan(limits, lambda _name, _option: 0.0)
    assert limits.hold(plan)
