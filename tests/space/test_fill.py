"""What a plan leaves under its bound goes to its coded rates."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from space.bins import max_size_range
from space.choices import choices_of
from space.fill import filled
from space.limits import Limits
from space.pins import read_pins
from space.plan import Plan, Sublayer, plan_from_json, uniform_plan
from space.rates import MOST_CODED_BITS, Coded, Packed
from tests.space.test_laws import SMALL, files, plans


@given(plans(), st.floats(1.001, 3.0))
def test_a_filled_plan_is_just_under_its_bound(drawn: tuple[object, Plan], room: float) -> None:
    layout, plan = drawn
    free = Limits(layout, max_size_range("1GB"), files)  # type: ignore[arg-type]
    bound = int(free.bytes_of(plan) * room) + 2
    limits = Limits(layout, max_size_range(f"{bound}B"), files)  # type: ignore[arg-type]
    found = filled(plan, limits)
    taken = limits.bytes_of(found)
    assert limits.bytes_of(plan) <= taken < bound
    before, after = choices_of(limits.layout, plan), choices_of(limits.layout, found)
    most = True
    for name, option in after.items():
        rate = option.rate if isinstance(option, Sublayer) else option
        old = before[name]
        was = old.rate if isinstance(old, Sublayer) else old
        if isinstance(rate, Coded) and not (isinstance(option, Sublayer) and not option.kept):
            assert isinstance(was, Coded)
            assert was.bits <= rate.bits <= MOST_CODED_BITS
            most = most and rate.bits == MOST_CODED_BITS
        else:
            assert rate == was
    assert plan_from_json(found.to_json()) == found
    coded = any(isinstance(o.rate if isinstance(o, Sublayer) else o, Coded) for o in after.values())
    assert not coded or most or taken >= 0.98 * bound - 400


def test_pinned_rates_stay() -> None:
    pins = read_pins(["lm_head:rate=c3", "decoder:bits<=2"], SMALL)
    plan = uniform_plan(SMALL, Coded(1.0))
    plan = type(plan)(**{**plan.__dict__, "lm_head": Coded(3.0)})
    free = Limits(SMALL, max_size_range("1GB"), files, pins)
    limits = Limits(SMALL, max_size_range(f"{int(free.bytes_of(plan) * 2.5)}B"), files, pins)
    found = filled(plan, limits)
    assert found.lm_head == Coded(3.0)
    assert all(layer.ffn.rate.bits <= 2 for layer in found.decoder)
    assert found.encoder[0].ffn.rate.bits > 2


@pytest.mark.parametrize("rate", [Packed(4, 64), Packed(16, 0)], ids=str)
def test_a_plan_without_coded_rates_stays_as_it_is(rate: Packed) -> None:
    plan = uniform_plan(SMALL, rate)
    assert filled(plan, Limits(SMALL, max_size_range("1GB"), files)) == plan
