"""Laws of the space: any parameters give a plan inside the range, both ways round, and more is never fewer bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, IntDistribution

from space.bins import BIN_NUMBERS, REFERENCE_BYTES, bin_of, bin_range, format_bytes, max_size_range
from space.errors import UserError
from space.genes import decode, distributions, encode, hears, knobs, repair, smallest_plan
from space.layout import layout_from_config
from space.plan import RATES, plan_from_json, uniform_plan
from space.size import plan_parameters, plan_size

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
        "text_config": {
            "vocab_size": 300,
            "hidden_size": 96,
            "intermediate_size": 208,
            "num_hidden_layers": 4,
            "num_attention_heads": 6,
            "num_key_value_heads": 3,
        },
    }
)
# Facts of the hub's config.json.
SEVEN_B = layout_from_config(
    {
        "model_type": "qwen2_audio",
        "audio_config": {
            "d_model": 1280,
            "encoder_layers": 32,
            "encoder_attention_heads": 20,
            "encoder_ffn_dim": 5120,
            "num_mel_bins": 128,
            "max_source_positions": 1500,
        },
        "text_config": {
            "vocab_size": 156032,
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
        },
    }
)
FIXED = 500


@st.composite
def params(draw: st.DrawFn) -> dict[str, object]:
    drawn: dict[str, object] = {}
    for name, distribution in distributions(SMALL).items():
        if isinstance(distribution, IntDistribution):
            drawn[name] = draw(st.integers(distribution.low, distribution.high))
        else:
            assert isinstance(distribution, CategoricalDistribution)
            drawn[name] = draw(st.sampled_from(distribution.choices))
    return drawn


def test_seven_b_has_the_published_parameters_and_bytes() -> None:
    assert SEVEN_B.parameters == 8_397_094_912
    assert SEVEN_B.source_bytes == REFERENCE_BYTES == 16_794_189_824


@given(params())
def test_decode_inverts_encode(drawn: dict[str, object]) -> None:
    plan = decode(drawn, SMALL)
    assert decode(encode(plan, SMALL), SMALL) == plan
    assert plan_from_json(plan.to_json()) == plan


@given(params(), st.sampled_from([1, 2, 3, 4]), st.integers(0, 1000))
def test_repaired_plans_are_in_their_bin_and_can_hear(drawn: dict[str, object], number: int, seed: int) -> None:
    size_range = bin_range(number, SMALL.source_bytes)
    plan = repair(decode(drawn, SMALL), SMALL, size_range, FIXED, seed)
    assert size_range.holds(plan_size(SMALL, plan, FIXED).total)
    assert hears(plan)
    assert repair(plan, SMALL, size_range, FIXED, seed + 1) == plan


@given(params())
def test_no_step_up_costs_fewer_bytes(drawn: dict[str, object]) -> None:
    plan = decode(drawn, SMALL)
    before = sum(plan_size(SMALL, plan, 0).by_unit.values())
    for knob in knobs(plan, SMALL):
        if knob.level + 1 < knob.levels:
            assert sum(plan_size(SMALL, knob.at(knob.level + 1), 0).by_unit.values()) >= before, knob.name


def test_uniform_16_bits_holds_every_parameter() -> None:
    plan = uniform_plan(SMALL, RATES[-1])
    assert plan_parameters(SMALL, plan) == SMALL.parameters
    assert sum(plan_size(SMALL, plan, 0).by_unit.values()) == SMALL.source_bytes


def test_bound_that_nothing_fits_is_refused_with_the_least_bytes() -> None:
    least = plan_size(SMALL, smallest_plan(SMALL), FIXED).total
    with pytest.raises(UserError, match=f"takes {format_bytes(least)}"):
        repair(smallest_plan(SMALL), SMALL, max_size_range(f"{least}B"), FIXED, 0)
    assert repair(smallest_plan(SMALL), SMALL, max_size_range(f"{least + 1}B"), FIXED, 0) == smallest_plan(SMALL)


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
