"""Policies: what each multiplier does to what options cost, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.layouts import find_anatomy
from space.choices import VOCABULARY, Option, choices
from space.plan import Sublayer
from space.policy import multipliers, policy_loss
from space.prior import prior_loss

LAYOUT = find_anatomy("qwen2-audio-7b").layout
LOSS = prior_loss(LAYOUT)
NONE = dict.fromkeys(multipliers(LAYOUT), 0.0)
NAMES = ("encoder.0.attention", "encoder.31.ffn", "decoder.7.attention", "decoder.31.ffn", "lm_head", VOCABULARY)
ANY = st.sampled_from([(name, option) for name in NAMES for option in choices(LAYOUT)[name][::7]])
POLICIES = st.fixed_dictionaries({name: st.floats(*ends) for name, ends in multipliers(LAYOUT).items()})
shaped = policy_loss(LAYOUT, LOSS)


@given(ANY)
def test_no_multiplier_leaves_losses_as_they_are(asked: tuple[str, Option]) -> None:
    assert shaped(NONE)(*asked) == pytest.approx(LOSS(*asked))


@pytest.mark.parametrize(
    ("multiplier", "changed"),
    [
        ("encoder.removal", lambda name, option: name.startswith("encoder") and not option.kept),
        ("decoder.removal", lambda name, option: name.startswith("decoder") and not option.kept),
        ("ffn.width", lambda name, option: name.endswith("ffn") and option.kept),
        ("attention.width", lambda name, option: name.endswith("attention") and option.kept),
        ("encoder.ffn", lambda name, _: name.startswith("encoder") and name.endswith("ffn")),
        ("encoder.attention", lambda name, _: name.startswith("encoder") and name.endswith("attention")),
        ("decoder.ffn", lambda name, _: name.startswith("decoder") and name.endswith("ffn")),
        ("decoder.attention", lambda name, _: name.startswith("decoder") and name.endswith("attention")),
        ("tables", lambda name, _: name == "lm_head"),
        (VOCABULARY, lambda name, _: name == VOCABULARY),
    ],
)
def test_a_multiplier_makes_dearer_what_it_is_about(multiplier: str, changed: Callable[[str, Any], bool]) -> None:
    dearer = shaped({**NONE, multiplier: 1.0})
    for name in NAMES:
        options = choices(LAYOUT)[name]
        whole = options[-1]
        for option in options:
            before, after = LOSS(name, option), dearer(name, option)
            narrower = not isinstance(option, Sublayer) or not isinstance(whole, Sublayer) or option.kept < whole.kept
            about = changed(name, option) and (narrower or not multiplier.endswith("width"))
            assert (after > before * (1 + 1e-9)) == (about and before > 0), (name, option)
            if about and "." in multiplier and not multiplier.endswith("width"):
                assert after == pytest.approx(2 * before)


def test_a_tilt_makes_later_layers_dearer_and_earlier_ones_cheaper() -> None:
    tilted = shaped({**NONE, "encoder.later": 1.0})
    option = choices(LAYOUT)["encoder.0.ffn"][5]
    assert tilted("encoder.0.ffn", option) == pytest.approx(LOSS("encoder.0.ffn", option) / 2)
    assert tilted("encoder.31.ffn", option) == pytest.approx(LOSS("encoder.31.ffn", option) * 2)
    assert tilted("decoder.31.ffn", option) == pytest.approx(LOSS("decoder.31.ffn", option))


def test_a_power_makes_many_small_losses_cheaper_than_a_large_one() -> None:
    squared = shaped({**NONE, "power": 1.0})
    for name in NAMES:
        for option in choices(LAYOUT)[name][::7]:
            assert squared(name, option) == pytest.approx(LOSS(name, option) ** 2)


@given(POLICIES, st.sampled_from(NAMES[:4]))
def test_the_sources_own_option_is_free_and_fewer_bits_are_never_cheaper(policy: dict[str, float], name: str) -> None:
    one, options = shaped(policy), choices(LAYOUT)[name]
    assert one(name, options[-1]) == 0
    kept = [x for x in options if isinstance(x, Sublayer) and x.kept == options[-1].kept]  # type: ignore[union-attr]
    losses = [one(name, option) for option in kept]
    assert losses == sorted(losses, reverse=True)
