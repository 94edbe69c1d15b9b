"""What plans are made of, in numbers."""

from __future__ import annotations

import math
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from models.layouts import find_anatomy
from space.plan import REMOVED, Heal, Layer, Sublayer, uniform_plan
from space.traits import traits

LAYOUT = find_anatomy("qwen2-audio-7b").layout
RATES = LAYOUT.rates
UNIFORM = uniform_plan(LAYOUT, RATES[3], Heal(25, 8))


def test_a_uniform_plan_keeps_everything_at_one_rate() -> None:
    found = traits(UNIFORM, LAYOUT)
    assert {value for name, value in found.items() if name.endswith(".kept")} == {1.0}
    assert {value for name, value in found.items() if name.endswith(".removed")} == {0.0}
    assert {value for name, value in found.items() if name.endswith(".bits")} == {RATES[3].bits}
    assert (found["heal.steps"], found["heal.rank"], found["tokens"]) == (25, 8, math.log2(LAYOUT.vocabulary))


@given(st.lists(st.integers(0, 16), min_size=32, max_size=32), st.integers(0, 7))
def test_what_stays_of_a_tower_is_counted_over_its_layers(sixteenths: list[int], rate: int) -> None:
    whole = next(tower for tower in LAYOUT.towers if tower.name == "decoder").ffn
    ffns = [Sublayer(n * whole // 16, RATES[rate]) if n else REMOVED for n in sixteenths]
    layers = tuple(Layer(old.attention, ffn) for old, ffn in zip(UNIFORM.decoder, ffns, strict=True))
    found, before = traits(replace(UNIFORM, decoder=layers), LAYOUT), traits(UNIFORM, LAYOUT)
    assert found["decoder.ffn.kept"] * 32 * whole == sum(one.kept for one in ffns)
    assert found["decoder.ffn.removed"] == sixteenths.count(0)
    assert found["decoder.ffn.bits"] == (RATES[rate].bits if any(sixteenths) else 0)
    assert {name for name in found if found[name] != before[name]} <= {
        name for name in found if name.startswith("decoder.ffn.")
    }
