"""Proxies that run no model: against plain formulas, and the laws they must keep to rank at all."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from compress.assembly import Assembler
from compress.pipeline import Bank
from compress.shelf import Shelf
from compress.units import matrix
from models.anatomy import decoder, places
from models.inputs import make_batch, target_logits
from models.loading import Source, pad_token
from proxies.deviation import Deviations, Difference, OptionErrors, gradient_error, squared_gradients, weight_error
from proxies.tryout import Tryout
from space.plan import REMOVED, Plan, Sublayer, uniform_plan
from space.rates import WHOLE, Coded
from tests.tiny import random_plans, tiny_rows


def tryout(source: Source, bank: Bank, plan: Plan) -> Tryout:
    return Tryout(plan, Assembler(source, bank, Shelf(), 0.03).assembled(plan))


def with_first_ffn(source: Source, ffn: Sublayer) -> Plan:
    """Everything whole but the decoder's first FFN."""
    plan = uniform_plan(source.layout, WHOLE)
    return replace(plan, decoder=(replace(plan.decoder[0], ffn=ffn), *plan.decoder[1:]))


def test_nothing_is_lost_where_all_stays(source: Source, bank: Bank) -> None:
    whole = tryout(source, bank, uniform_plan(source.layout, WHOLE))
    assert OptionErrors(Deviations(source, bank), weight_error)(whole) < 1e-4


def test_a_removed_sublayer_loses_all_of_its_outputs(source: Source, bank: Bank) -> None:
    lost = list(Deviations(source, bank).of(tryout(source, bank, with_first_ffn(source, REMOVED)), ["decoder.0.ffn"]))
    removed = lost
    whole = {place.name: place for place in places(source.model, uniform_plan(source.layout, WHOLE))}
    assert len(removed) == 1, "rows that fed it are not counted"
    assert torch.equal(removed[0].lost, matrix(whole["decoder.0.ffn"].matrices[-1]))
    assert removed[0].share() == pytest.approx(1.0)


def test_narrow_sublayers_lose_what_their_outputs_differ_by(source: Source, bank: Bank) -> None:
    kept = source.layout.towers[-1].ffn // 2
    plan = with_first_ffn(source, Sublayer(kept, WHOLE))
    one = tryout(source, bank, plan)
    *_, last = Deviations(source, bank).of(one, ["decoder.0.ffn"])
    # a matrix as wide as the source's, with zeros where channels are gone
    order = bank.orders["decoder.0.ffn"]
    stay = order[len(order) - kept :].sort().values
    wide = torch.zeros_like(last.source)
    wide[:, stay] = matrix(next(p for p in places(one.candidate.model, plan) if p.name == "decoder.0.ffn").matrices[-1])
    assert torch.allclose(last.lost, last.source - wide)
    assert 0 < last.share() < 1


def test_narrow_attention_loses_what_is_seen_of_its_outputs(source: Source, bank: Bank) -> None:
    """Grouped heads and biases included: measured by running the layer."""
    plan = uniform_plan(source.layout, WHOLE)
    first = replace(plan.decoder[0], attention=Sublayer(source.layout.decoder.kv_heads - 1, WHOLE))
    one = tryout(source, bank, replace(plan, decoder=(first, *plan.decoder[1:])))
    batch = make_batch(tiny_rows(source), pad_token(source.model))
    seen = []
    for model in (source.model, one.candidate.model):
        outputs: list[torch.Tensor] = []
        projection = decoder(model).layers[0].self_attn.o_proj
        hook = projection.register_forward_hook(lambda _module, _inputs, output, kept=outputs: kept.append(output))
        target_logits(model, batch)
        hook.remove()
        # moments count padding too
        seen.append(outputs[0].detach().flatten(0, 1))
        biased = projection.bias is not None
    whole, narrow = (x - x.mean(0) if biased else x for x in seen)
    *_, last = Deviations(source, bank).of(one, ["decoder.0.attention"])
    assert last.share() == pytest.approx(float((whole - narrow).square().sum() / whole.square().sum()), rel=0.05)


def test_fewer_bits_and_fewer_tokens_lose_more(source: Source, bank: Bank) -> None:
    measure = OptionErrors(Deviations(source, bank), weight_error)
    errors = [measure(tryout(source, bank, uniform_plan(source.layout, Coded(bits)))) for bits in (1.0, 3.0)]
    assert errors[0] > errors[1]
    whole = uniform_plan(source.layout, Coded(3.0))
    trimmed = replace(whole, vocabulary=source.layout.vocabulary_sizes[0])
    assert measure(tryout(source, bank, trimmed)) > measure(tryout(source, bank, whole))


def test_errors_of_options_known_are_not_measured_again(source: Source, bank: Bank) -> None:
    """And those of random plans are what measuring them anew gives, whatever is known of others."""
    deviations, asked = Deviations(source, bank), 0

    def counting(one: Difference) -> float:
        nonlocal asked
        asked += 1
        return weight_error(one)

    assembler, errors = Assembler(source, bank, Shelf(), 0.03), OptionErrors(deviations, counting)
    plans = random_plans(source, 6)
    for plan in plans:
        one = Tryout(plan, assembler.assembled(plan))
        assert errors(one) == pytest.approx(OptionErrors(deviations, weight_error)(one))
    before = asked
    for plan in plans:
        errors(Tryout(plan, assembler.assembled(plan)))
    assert asked == before


def test_squared_gradients_are_those_of_single_batches(source: Source) -> None:
    rows = tiny_rows(source, 2)
    batches = [make_batch(rows[:2], pad_token(source.model)), make_batch(rows[2:], pad_token(source.model))]
    found = squared_gradients(source, batches)
    weight = source.model.lm_head.weight
    plain = []
    for batch in batches:
        weight.requires_grad_(True)
        loss = cross_entropy(target_logits(source.model, batch), batch.targets)
        plain.append(torch.autograd.grad(loss, weight)[0].square())
        weight.requires_grad_(False)
    name = "lm_head" if ("lm_head", 0) in found else "embedding"
    assert torch.allclose(found[name, 0], sum(plain) / 2, rtol=1e-3, atol=1e-12)
    assert not any(parameter.requires_grad for parameter in source.model.parameters())
    assert all(parameter.grad is None for parameter in source.model.parameters())


def test_gradients_weigh_what_is_lost(source: Source, bank: Bank) -> None:
    deviations = Deviations(source, bank)
    squares = squared_gradients(source, [make_batch(tiny_rows(source), pad_token(source.model))])
    measure = OptionErrors(deviations, gradient_error(lambda: squares))
    plan = with_first_ffn(source, REMOVED)
    removed = measure(tryout(source, bank, plan))
    last = next(p for p in places(source.model, uniform_plan(source.layout, WHOLE)) if p.name == "decoder.0.ffn")
    plain = (matrix(last.matrices[-1]).square() * squares["decoder.0.ffn", len(last.matrices) - 1]).sum()
    # the rest is rounded to 16 bits, and the matrix before makes up for what is removed
    assert removed >= float(plain)
    errors = [measure(tryout(source, bank, uniform_plan(source.layout, Coded(bits)))) for bits in (1.0, 3.0)]
    assert errors[0] > errors[1]
