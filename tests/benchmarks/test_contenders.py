"""Contenders: inside their bin, of their method only; greedy removal takes away what its score says."""

from __future__ import annotations

from itertools import pairwise

import pytest

from benchmarks.contenders import (
    BITS,
    NONE_FITS,
    Contender,
    additive,
    allocated,
    at_rate,
    greedy,
    greedy_at_bits_that_fit,
    greedy_path,
    layers_left,
    middle_removed,
    uniform,
    without_layer,
)
from models.layouts import find_anatomy
from space.bins import BIN_NUMBERS, bin_range, max_size_range
from space.choices import VOCABULARY, choices_of, whole_size
from space.fill import filled
from space.layout import Layout
from space.limits import Limits, smallest_plan
from space.plan import Plan, Sublayer, removed_sublayers, uniform_plan
from space.policy import Loss
from space.prior import prior_loss
from space.rates import Coded
from tests.space.test_laws import READER, files

BUNDLED = find_anatomy(None).layout


def limits_of(number: int, layout: Layout = BUNDLED) -> Limits:
    return Limits(layout, bin_range(number, layout.source_bytes), files)


def heard(plan: Plan) -> float:
    """As if the layers at the end of each tower mattered least, and low bits much."""
    left = [index for tower in BUNDLED.towers for index in layers_left(plan, tower)]
    bits = plan.embedding.bits
    return 100 - sum(1 / (1 + index) for index in left) - bits


def everyone(limits: Limits) -> list[Contender]:
    loss, path = prior_loss(limits.layout), greedy_path(limits, heard)
    return [
        uniform(limits),
        middle_removed(limits),
        greedy(limits, path),
        greedy_at_bits_that_fit(limits, path, heard),
        additive(limits, loss),
        allocated(limits, loss),
    ]


@pytest.mark.parametrize("number", BIN_NUMBERS)
def test_whoever_has_a_plan_is_inside_the_bin_and_fills_it(number: int) -> None:
    limits = limits_of(number)
    found = everyone(limits)
    assert len({one.name for one in found}) == len(found)
    for one in found:
        assert (one.plan is None) == (one.what == NONE_FITS)
        if one.plan is not None:
            assert limits.hold(one.plan)
            full = filled(one.plan, limits)
            assert limits.hold(full)
            assert limits.bytes_of(full) > 0.99 * limits.size_range.bound_bytes
    if number <= 3:
        assert all(one.plan for one in found)
    assert found[-1].plan


@pytest.mark.parametrize("number", [1, 2, 3])
def test_uniform_and_additive_plans_prune_nothing(number: int) -> None:
    limits = limits_of(number)
    loss = prior_loss(limits.layout)
    for one in (uniform(limits), additive(limits, loss)):
        assert one.plan is not None
        chosen = choices_of(limits.layout, one.plan)
        assert chosen[VOCABULARY] == limits.layout.vocabulary
        for tower in limits.layout.towers:
            for layer in one.plan.layers(tower):
                kept = layer.attention.kept, layer.ffn.kept
                assert kept == (whole_size(tower, "attention"), whole_size(tower, "ffn"))
        assert removed_sublayers(one.plan) == 0
    assert len(rates(limits.layout, uniform(limits).plan)) == 1
    assert len(rates(limits.layout, additive(limits, loss).plan)) > 1


def rates(layout: Layout, plan: Plan | None) -> set[object]:
    assert plan is not None
    options = [option for name, option in choices_of(layout, plan).items() if name != VOCABULARY]
    return {x.rate if isinstance(x, Sublayer) else x for x in options if not isinstance(x, Sublayer) or x.kept}


def test_the_additive_plan_has_the_least_sum_of_losses_of_whole_ones() -> None:
    limits = limits_of(3)

    def loss_of(plan: Plan | None, loss: Loss) -> float:
        assert plan is not None
        return sum(loss(*one) for one in choices_of(limits.layout, plan).items())

    loss = prior_loss(limits.layout)
    whole, free, flat = (one.plan for one in (additive(limits, loss), allocated(limits, loss), uniform(limits)))
    assert loss_of(free, loss) <= loss_of(whole, loss) <= loss_of(flat, loss)


def test_greedy_removal_takes_away_what_costs_least_the_decoder_first() -> None:
    asked: list[Plan] = []

    def recorded(plan: Plan) -> float:
        asked.append(plan)
        return heard(plan)

    limits = limits_of(3)
    path = greedy_path(limits, recorded)
    encoder, decoder = BUNDLED.towers
    left = [(len(layers_left(plan, encoder)), len(layers_left(plan, decoder))) for plan in path]
    assert left == [*((6, n) for n in range(6, 0, -1)), *((n, 1) for n in range(5, 0, -1))]
    assert layers_left(path[-1], decoder) == layers_left(path[-1], encoder) == [0]
    assert len(asked) == 2 * (6 + 5 + 4 + 3 + 2)
    for before, after in pairwise(path):
        assert min(asked, key=lambda plan: (removed_sublayers(plan) != removed_sublayers(after), heard(plan))) == after
        assert set(layers_left(after, decoder)) <= set(layers_left(before, decoder))
    assert {plan.embedding for plan in path} == {Coded(BITS)}


def test_greedy_removal_ends_as_soon_as_it_fits_and_lowers_bits_only_where_it_never_does() -> None:
    limits = limits_of(1)
    path = greedy_path(limits, heard)
    assert len(path) == 2
    assert greedy(limits, path).plan == path[-1]
    tight = limits_of(4)
    found = greedy(tight, greedy_path(tight, heard)).plan
    assert found is not None
    assert found.embedding.bits < BITS
    assert all(len(layers_left(found, tower)) == 1 for tower in BUNDLED.towers)


def test_at_bits_that_fit_the_best_plan_of_the_path_is_taken() -> None:
    limits = limits_of(3)
    path = greedy_path(limits, heard)
    for wanted in (1, 4):

        def only(plan: Plan, wanted: int = wanted) -> float:
            return abs(removed_sublayers(plan) - 2 * wanted)

        found = greedy_at_bits_that_fit(limits, path, only).plan
        assert found is not None
        higher = [rate for rate in BUNDLED.rates if found.embedding.bits < rate.bits]
        assert removed_sublayers(found) == 2 * wanted
        assert not limits.hold(at_rate(BUNDLED, found, higher[0]))


def test_middle_layers_go_at_four_bits_until_that_fits() -> None:
    limits = limits_of(2)
    plan = middle_removed(limits).plan
    assert plan is not None
    assert plan.embedding == Coded(BITS)
    assert [layers_left(plan, tower) for tower in BUNDLED.towers] == [[0, 5], [0, 5]]


def test_what_reads_is_cut_too_and_what_cannot_fit_says_so() -> None:
    limits = Limits(READER, max_size_range("1GB"), files)
    bound = limits.bytes_of(smallest_plan(limits)) - 1
    tiny = Limits(READER, max_size_range(f"{bound}B"), files)

    def layers(plan: Plan) -> float:
        return -sum(layers_left(plan, READER.decoder))

    path = greedy_path(tiny, layers)
    assert layers_left(path[-1], READER.decoder) == [READER.decoder.layers - 1]
    found = [
        uniform(tiny),
        middle_removed(tiny),
        greedy(tiny, path),
        greedy_at_bits_that_fit(tiny, path, layers),
        additive(tiny, prior_loss(READER)),
    ]
    assert [(one.what, one.plan) for one in found] == [(NONE_FITS, None)] * len(found)


def test_a_layer_less_and_another_rate_leave_the_rest_alone() -> None:
    plan = uniform_plan(BUNDLED, Coded(BITS))
    less = without_layer(BUNDLED, plan, BUNDLED.decoder, 2)
    assert layers_left(less, BUNDLED.decoder) == [0, 1, 3, 4, 5]
    assert less.encoder == plan.encoder
    assert [x for i, x in enumerate(less.decoder) if i != 2] == [x for i, x in enumerate(plan.decoder) if i != 2]
    assert at_rate(BUNDLED, at_rate(BUNDLED, less, Coded(2.0)), Coded(BITS)) == less
    assert rates(BUNDLED, at_rate(BUNDLED, less, Coded(2.0))) == {Coded(2.0)}
