"""Techniques in words: what a plan does is said, what it does not is not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given

from space.layout import Layout
from space.plan import REMOVED, Heal, Layer, Plan, Sublayer, uniform_plan
from space.rates import WHOLE, Coded, Packed, Rate
from space.techniques import techniques
from tests.space.test_laws import READER, SMALL, plans

# Of SMALL: 4 heads, 256 channels in 3 layers; 3 key/value heads, 208 channels in 4.
TABLES = "bits of tables: embedding 2.00, lm head 2.00, projector 2.00, convolutions 2.00"
CODED = "quantisation with error feedback (GPTQ), entropy-coded"
PACKED = "quantisation with error feedback (GPTQ), packed integers"


def plain(rate: Rate = WHOLE) -> Plan:
    return uniform_plan(SMALL, rate)


def test_nothing_is_said_of_the_source_as_it_is() -> None:
    assert techniques(SMALL, plain()) == ()
    assert techniques(READER, uniform_plan(READER, WHOLE)) == ()


@pytest.mark.parametrize(("rate", "form"), [(Coded(2.0), CODED), (Packed(2, 64), PACKED)])
def test_one_rate_is_one_form(rate: Rate, form: str) -> None:
    assert techniques(SMALL, plain(rate)) == (f"{form}, 2.00 bits a weight on average", TABLES)


def test_a_table_the_model_lacks_is_not_named() -> None:
    assert techniques(READER, uniform_plan(READER, Coded(2.0)))[-1] == "bits of tables: embedding 2.00"


def test_layers_and_sublayers_that_go() -> None:
    plan = plain()
    _, first, *rest = plan.decoder
    decoder = (Layer(REMOVED, REMOVED), Layer(REMOVED, first.ffn), *rest)
    encoder = (*plan.encoder[:2], Layer(plan.encoder[2].attention, REMOVED))
    assert techniques(SMALL, replace(plan, encoder=encoder, decoder=decoder)) == (
        "1 FFN sublayer of the encoder removed",
        "1 of 4 decoder layers removed",
        "1 more attention sublayer of the decoder removed",
    )


def test_heads_and_channels_are_counted_in_the_sublayers_that_stay() -> None:
    plan = plain()
    encoder = (Layer(Sublayer(3, WHOLE), Sublayer(255, WHOLE)), plan.encoder[1], Layer(REMOVED, REMOVED))
    decoder = (Layer(Sublayer(2, WHOLE), plan.decoder[0].ffn), *plan.decoder[1:])
    assert techniques(SMALL, replace(plan, encoder=encoder, decoder=decoder)) == (
        "1 of 3 encoder layers removed",
        "7 of 8 attention heads kept in what stays of the encoder",
        "511 of 512 FFN channels kept in what stays of the encoder",
        "11 of 12 key/value heads with their queries kept in what stays of the decoder",
    )


def test_vocabulary_and_healing() -> None:
    plan = replace(plain(), vocabulary=80, heal=Heal(1200))
    assert techniques(SMALL, plan) == (
        "vocabulary trimmed to 80 of 300 tokens",
        "distillation from the uncompressed model, 1,200 steps (all weights)",
    )
    plan = replace(plain(), heal=Heal(1, rank=8))
    assert techniques(SMALL, plan) == ("distillation from the uncompressed model, 1 step (LoRA of rank 8, merged)",)


def test_mean_bits_are_weighed_by_weights_and_forms_have_their_shares() -> None:
    # the towers in bf16; the convolutions are of 64 x 60 and 64 x 192, with a table of 50 positions
    plan = replace(
        plain(), embedding=Coded(2.0), lm_head=Coded(3.0), projector=Packed(4, 64), convolutions=Packed(8, 64)
    )
    everything = sum(_weights(SMALL))
    coded, projector, convolutions = 2 * 300 * 96, 64 * 96, 64 * (60 + 192 + 50)
    packed = projector + convolutions
    bits = (4 * projector + 8 * convolutions) / packed
    assert set(techniques(SMALL, plan)) == {
        f"{CODED}, 2.50 bits a weight on average ({coded / everything:.1%} of the weights)",
        f"{PACKED}, {bits:.2f} bits a weight on average ({packed / everything:.1%} of the weights)",
        f"the rest in bf16 ({1 - (coded + packed) / everything:.1%} of the weights)",
        "bits of tables: embedding 2.00, lm head 3.00, projector 4.00, convolutions 8.00",
    }


def _weights(layout: Layout) -> list[int]:
    towers = [
        linear.rows * linear.columns * tower.layers
        for tower in layout.towers
        for linear in (*tower.attention(tower.kv_heads), *tower.feed_forward(tower.ffn))
    ]
    tables = [x.rows * x.columns for name in layout.tables for x in layout.table(name, layout.vocabulary)]
    return towers + tables


@given(plans())
def test_of_any_plan_phrases_are_single_and_say_what_differs(drawn: tuple[Layout, Plan]) -> None:
    layout, plan = drawn
    found = techniques(layout, plan)
    assert len(set(found)) == len(found)
    assert all(phrase.isprintable() and ";" not in phrase for phrase in found)
    assert any("vocabulary" in phrase for phrase in found) == (plan.vocabulary < layout.vocabulary)
    assert any("distillation" in phrase for phrase in found) == bool(plan.heal.steps)
    for tower in layout.towers:
        whole = Layer(Sublayer(tower.kv_heads, WHOLE), Sublayer(tower.ffn, WHOLE))
        pruned = any(
            (one.attention.kept, one.ffn.kept) != (whole.attention.kept, whole.ffn.kept) for one in plan.layers(tower)
        )
        assert any(f"{tower.name}" in phrase for phrase in found) == pruned
