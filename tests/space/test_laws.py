"""Laws of the space: any parameters give a plan inside the range, both ways round, and more is never fewer bytes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, IntDistribution

from models.layouts import find_anatomy
from space.bins import BIN_NUMBERS, BINARY, REFERENCE_BYTES, SizeRange, bin_of, bin_range, format_bytes, max_size_range
from space.choices import Option, choices_of, hears, plan_of
from space.errors import UserError
from space.genes import Knob, decode, distributions, encode, knobs, repair, space_fingerprint, swapped
from space.layout import Layout, layout_from_config
from space.limits import Limits, largest_plan, smallest_plan
from space.pins import read_pins
from space.plan import Plan, Sublayer, plan_from_json, uniform_plan
from space.rates import WHOLE, Coded, Packed
from space.size import header_bytes, larger_header_bytes, most_unit_bytes, plan_parameters, plan_size, unit_bytes, units

TEXT = {
    "vocab_size": 300,
    "hidden_size": 96,
    "intermediate_size": 208,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
}
SMALL = layout_from_config(
    {
        "model_type": "qwen2_audio",
        "audio_config": {
            "d_model": 64,
            "encoder_layers": 3,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 256,
            "num_mel_bins": 20,
            "max_source_positions": 50,
        },
        "text_config": TEXT,
    }
)
SEVEN_B = find_anatomy("qwen2-audio-7b").layout


def files(tokens: int) -> int:
    """Fixed files that grow with the vocabulary."""
    return 500 + 7 * tokens


TRIMMED = replace(SMALL, vocabulary_sizes=(40, 80, 150, 300))
READER = layout_from_config(
    {
        "model_type": "llama",
        **TEXT,
        "tie_word_embeddings": True,
    }
)


LAYOUTS = st.sampled_from([SMALL, TRIMMED, READER])
PINS = st.lists(
    st.sampled_from(
        [
            "decoder.first:keep",
            "all:rate=c1.6",
            "decoder:bits>=3",
            "decoder:keep",
            "attention:bits>=4",
            "lm_head:bits>=4",
            "decoder.last.ffn:whole",
            "all:bits<=5",
            "vocabulary:tokens<=150",
            "encoder:whole",
            "encoder.1-2:gone",
            "embedding:rate=c3",
        ]
    ),
    max_size=3,
    unique=True,
)


@st.composite
def plans(draw: st.DrawFn) -> tuple[Layout, Plan]:
    """A layout, and the plan of any parameters of its space."""
    layout = draw(LAYOUTS)
    drawn: dict[str, object] = {}
    for name, distribution in distributions(layout).items():
        if isinstance(distribution, IntDistribution):
            drawn[name] = draw(st.integers(distribution.low, distribution.high))
        else:
            assert isinstance(distribution, CategoricalDistribution)
            drawn[name] = draw(st.sampled_from(distribution.choices))
    return layout, decode(drawn, layout)


def limits_of(layout: Layout, number: int, pins: Sequence[str] = ()) -> Limits:
    return Limits(layout, bin_range(number, layout.source_bytes), files, read_pins(pins, layout))


def possible_limits(layout: Layout, number: int, texts: Sequence[str]) -> Limits | None:
    """None where limits are refused: a pin names nothing, or the smallest or largest plan shows that none is inside."""
    try:
        limits = limits_of(layout, number, texts)
        limits.check()
    except UserError:
        return None
    return limits


def test_seven_b_has_the_published_parameters_and_bytes() -> None:
    assert SEVEN_B.parameters == 8_397_094_912
    assert SEVEN_B.source_bytes == REFERENCE_BYTES == 16_794_189_824


@given(plans())
def test_decode_inverts_encode(drawn: tuple[Layout, Plan]) -> None:
    layout, plan = drawn
    assert decode(encode(plan, layout), layout) == plan
    assert plan_of(layout, choices_of(layout, plan), plan.heal) == plan
    assert plan_from_json(plan.to_json()) == plan


@given(plans(), st.sampled_from([1, 2, 3, 4]), PINS, st.integers(0, 1000))
def test_any_parameters_give_a_plan_inside_the_limits_or_a_proof_that_there_is_none(
    drawn: tuple[Layout, Plan], number: int, texts: list[str], seed: int
) -> None:
    layout, plan = drawn
    limits = possible_limits(layout, number, texts)
    if limits is None:
        return
    repaired = repair(plan, limits, seed)
    assert limits.size_range.holds(limits.bytes_of(repaired))
    assert hears(repaired)
    assert all(limits.pins.allow(name, option) for name, option in choices_of(layout, repaired).items())
    assert repair(repaired, limits, seed + 1) == repaired


@given(plans(), st.sampled_from([1, 2, 3, 4]), PINS, st.integers(0, 1000))
def test_an_exchange_keeps_to_the_limits_and_takes_from_three_things_at_most(
    drawn: tuple[Layout, Plan], number: int, texts: list[str], seed: int
) -> None:
    layout, plan = drawn
    limits = possible_limits(layout, number, texts)
    if limits is None:
        return
    plan = repair(plan, limits, seed)
    exchanged = swapped(plan, limits, seed)
    assert exchanged == swapped(plan, limits, seed)
    assert limits.hold(exchanged)
    assert exchanged.heal == plan.heal
    after = choices_of(layout, exchanged)
    assert sum(less(after[name], option) for name, option in choices_of(layout, plan).items()) <= 3


def less(option: Option, before: Option) -> bool:
    """Whether fewer heads, channels or tokens stay, or the same at fewer bits."""
    if isinstance(option, Sublayer) and isinstance(before, Sublayer):
        return option.kept < before.kept or (option.kept > 0 and option.rate.bits < before.rate.bits)
    if isinstance(option, int) and isinstance(before, int):
        return option < before
    assert isinstance(option, Coded | Packed)
    assert isinstance(before, Coded | Packed)
    return option.bits < before.bits


@given(plans(), PINS)
def test_no_plan_is_smaller_than_the_smallest_or_larger_than_the_largest(
    drawn: tuple[Layout, Plan], texts: list[str]
) -> None:
    layout, plan = drawn
    try:
        limits = Limits(layout, SizeRange("any", 0, 10**9), files, read_pins(texts, layout))
        least, most = smallest_plan(limits), largest_plan(limits)
    except UserError:
        return
    # the JSON of the plan and of the header is left out: names of rates differ by a letter
    inside = repair(plan, limits, 0)
    low, middle, high = (sum(plan_size(layout, one, files).by_unit.values()) for one in (least, inside, most))
    assert low <= middle <= high


@given(plans())
def test_no_step_up_costs_fewer_bytes(drawn: tuple[Layout, Plan]) -> None:
    layout, plan = drawn
    chosen = choices_of(layout, plan)
    before = sum(plan_size(layout, plan, files).by_unit.values())
    for knob in knobs(chosen, layout):
        option = knob.stepped(+1)
        if option is not None:
            more = plan_of(layout, {**chosen, knob.name: option}, plan.heal)
            assert sum(plan_size(layout, more, files).by_unit.values()) >= before, knob.name
            assert knobs_level(more, knob, layout) == knob.level + 1


@given(plans(), st.randoms(use_true_random=False))
def test_units_that_take_what_others_leave_make_the_header_no_longer_than_was_held_back(
    drawn: tuple[Layout, Plan], rng: random.Random
) -> None:
    found = list(units(*drawn))
    by_rate = {unit.name: unit_bytes(unit) for unit in found}
    taken = {unit.name: rng.randint(unit_bytes(unit), most_unit_bytes(unit)) for unit in found}
    assert header_bytes(taken) <= header_bytes(by_rate) + larger_header_bytes(found)


def knobs_level(plan: Plan, knob: Knob, layout: Layout) -> int:
    """Where the same knob stands in another plan; a sublayer's size if it has two."""
    same = [other for other in knobs(choices_of(layout, plan), layout) if other.name == knob.name]
    return next(other.level for other in same if how_many_sizes(other) == how_many_sizes(knob))


def how_many_sizes(knob: Knob) -> int:
    """A sublayer's size varies, or its rate."""
    return len({option.kept for option in knob.options if isinstance(option, Sublayer)})


def test_uniform_16_bits_holds_every_parameter() -> None:
    for layout in (SMALL, READER):
        plan = uniform_plan(layout, WHOLE)
        assert plan_parameters(layout, plan) == layout.parameters
        assert sum(plan_size(layout, plan, files).by_unit.values()) == layout.source_bytes


def test_bound_that_nothing_fits_is_refused_with_the_least_bytes() -> None:
    least = Limits(SMALL, bin_range(1, SMALL.source_bytes), files).bytes_of(smallest_plan(limits_of(SMALL, 1)))
    tight = Limits(SMALL, max_size_range(f"{least}B"), files)
    with pytest.raises(UserError, match=f"takes {format_bytes(least)}"):
        tight.check()
    loose = replace(tight, size_range=max_size_range(f"{least + 1}B"))
    assert repair(smallest_plan(loose), loose, 0) == smallest_plan(loose)


@pytest.mark.parametrize(
    ("size_bytes", "number"),
    [(199_999_999, 5), (200_000_000, 4), (500_000_000, 3), (999_999_999, 3), (2_000_000_000, 1), (4_000_000_000, None)],
)
def test_a_boundary_belongs_to_the_bin_that_starts_there(size_bytes: int, number: int | None) -> None:
    assert bin_of(size_bytes, REFERENCE_BYTES) == number


@given(st.integers(0, REFERENCE_BYTES))
def test_bins_do_not_overlap(size_bytes: int) -> None:
    inside = [number for number in BIN_NUMBERS if bin_range(number, REFERENCE_BYTES).holds(size_bytes)]
    assert len(inside) == (size_bytes < 4_000_000_000)


@pytest.mark.parametrize("text", ["", "many", "12 parsecs", "0", "-3MB", "1e3"])
def test_nonsense_sizes_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="--max-size"):
        max_size_range(text)


@pytest.mark.parametrize(("text", "bound"), [("900kB", 900_000), ("1.5 GB", 1_500_000_000), ("300MiB", 300 * 2**20)])
def test_sizes_are_read(text: str, bound: int) -> None:
    assert max_size_range(text).bound_bytes == bound


@pytest.mark.parametrize(
    ("size_bytes", "text"), [(999_995, "1.00 MB"), (12, "12 B"), (3_998_000_000, "4.00 GB"), (123_456, "123 kB")]
)
def test_bytes_are_printed_in_decimal_units(size_bytes: int, text: str) -> None:
    assert format_bytes(size_bytes) == text


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"encoder": 3}', "\x00"])
def test_damaged_plans_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"plan\.json is damaged"):
        plan_from_json(text)


def test_binary_units_are_of_1024() -> None:
    assert bin_range(3, REFERENCE_BYTES, BINARY).bound_bytes == 2**30
    assert bin_range(4, REFERENCE_BYTES, BINARY).least_bytes == 200 * 2**20
    assert max_size_range("500MB", BINARY).bound_bytes == 500 * 2**20
    assert format_bytes(3 * 2**19, BINARY) == "1.50 MiB"
    assert (bin_of(205_000_000, REFERENCE_BYTES), bin_of(205_000_000, REFERENCE_BYTES, BINARY)) == (4, 5)


@pytest.mark.parametrize(
    "text",
    [
        "decoder",
        "decoder:stay",
        "decoder.4:keep",
        "decoder.2-1:keep",
        "lm_head:keep",
        "vocabulary:bits>=4",
        "all:tokens>=5",
        "third:keep",
        "lm_head:rate=7g64",
        "decoder:bits>=17",
        ":",
    ],
)
def test_pins_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="pin"):
        read_pins([text], SMALL)


def test_pins_that_make_a_bin_impossible_are_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"bin 4: nothing fits.*--pin decoder:whole"):
        limits_of(SMALL, 4, ["decoder:whole"]).check()
    with pytest.raises(UserError, match=r"bin 1: the model is too small.*--pin all:rate=c0.7"):
        limits_of(SMALL, 1, ["all:rate=c0.7", "encoder:gone", "ffn:gone"]).check()
    with pytest.raises(UserError, match="attention of at least one layer"):
        smallest_plan(limits_of(SMALL, 1, ["decoder.attention:gone"]))
    with pytest.raises(UserError, match="leave nothing to choose"):
        read_pins(["decoder.0:gone", "decoder.0:keep"], SMALL)


def test_a_space_is_told_by_its_fingerprint() -> None:
    same = space_fingerprint(SMALL, 50)
    assert same == space_fingerprint(replace(SMALL), 50)
    others = [
        space_fingerprint(SMALL, 48),
        space_fingerprint(replace(SMALL, rates=SMALL.rates[:-1]), 50),
        space_fingerprint(replace(SMALL, vocabulary_sizes=(100, SMALL.vocabulary)), 50),
        space_fingerprint(replace(SMALL, encoder=None), 50),
    ]
    assert len({same, *others}) == len(others) + 1
