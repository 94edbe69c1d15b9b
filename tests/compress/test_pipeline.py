"""Plans carried out on a tiny model: predicted bytes are `stat`, what loads back is what was scored."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from optuna.distributions import CategoricalDistribution, IntDistribution
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from compress.checkpoint import load_checkpoint, read_plan, write_checkpoint
from compress.gptq import Hessian
from compress.heal import Coach, HealSettings
from compress.importance import Behind
from compress.pipeline import Bank, compress
from compress.prune import pruned_model, removed_behind
from compress.quantize import pack, quantize
from models.anatomy import decoder
from models.inputs import make_batch, target_logits
from models.loading import Source, pad_token
from models.modeling_tightfit import unpack
from models.packaging import summed
from proxies.divergence import divergence
from space.bins import SizeRange
from space.errors import UserError
from space.genes import decode, distributions, repair
from space.limits import Limits
from space.plan import NO_HEAL, REMOVED, Heal, Plan, plan_from_json, uniform_plan
from space.rates import WHOLE, Coded, Packed
from space.size import plan_size, units
from tests.tiny import tiny_rows


def random_plans(source: Source, count: int) -> Iterator[Plan]:
    rng = random.Random(5)
    for seed in range(count):
        params = {}
        for name, distribution in distributions(source.layout).items():
            if isinstance(distribution, IntDistribution):
                params[name] = rng.randint(distribution.low, distribution.high)
            else:
                assert isinstance(distribution, CategoricalDistribution)
                params[name] = rng.choice(distribution.choices)
        yield repair(
            decode(params, source.layout), Limits(source.layout, SizeRange("any", 0, 10**9), lambda _: 0), seed
        )


def test_own_forward_is_the_models_own(source: Source) -> None:
    rows = tiny_rows(source)
    batch = make_batch(rows, source.model.generation_config.pad_token_id)
    heard = {}
    if batch.speech is not None:
        speech, of_row = batch.speech, batch.speech.of_row
        keep = torch.arange(speech.features.shape[2])[None] < speech.frames[:, None]
        heard = {"input_features": speech.features[of_row], "feature_attention_mask": keep[of_row].long()}
    with torch.no_grad():
        stock = source.model(input_ids=batch.ids, attention_mask=batch.mask, **heard).logits
        ours = target_logits(source.model, batch)
    torch.testing.assert_close(ours, stock[:, :-1][batch.predicts], atol=2e-5, rtol=1e-4)


def test_predicted_bytes_are_stat_and_loaded_logits_are_those_scored(
    source: Source, bank: Bank, tmp_path: Path
) -> None:
    sizes = set()
    for number, plan in enumerate(random_plans(source, 12)):
        lessons = bank.curriculum.of(plan.vocabulary)
        batch = make_batch([lesson.row for lesson in lessons], source.vocabulary.kept(plan.vocabulary).index(0))
        sizes.add(plan.vocabulary)
        compressed = compress(source, replace(plan, heal=NO_HEAL), bank, seed=0)
        written = write_checkpoint(tmp_path / str(number), source, plan, compressed.stored)
        predicted = plan_size(source.layout, plan, source.fixed_bytes).total
        coded = sum(isinstance(unit.rate, Coded) for unit in units(source.layout, plan))
        assert written == predicted if not coded else 0.995 * predicted <= written <= predicted
        loaded, loaded_plan = load_checkpoint(tmp_path / str(number))
        assert loaded_plan == plan
        with torch.no_grad():
            assert torch.equal(target_logits(loaded, batch), target_logits(compressed.model, batch))
    assert len(sizes) > 2


def test_the_last_sublayer_that_stays_makes_up_for_those_removed_behind_it(source: Source, bank: Bank) -> None:
    """Nothing is behind a tower's last sublayers: its states come as close to the source's as least squares gets."""
    whole = uniform_plan(source.layout, WHOLE)
    *layers, last = whole.decoder
    plan = replace(whole, decoder=(*layers, replace(last, attention=REMOVED, ffn=REMOVED)))
    lessons = bank.curriculum.lessons
    batch = make_batch([lesson.row for lesson in lessons], pad_token(source.model))

    def states(model: PreTrainedModel) -> torch.Tensor:
        caught: list[torch.Tensor] = []
        hook = decoder(model).norm.register_forward_pre_hook(lambda _, seen: caught.append(seen[0][batch.mask.bool()]))
        with torch.no_grad():
            target_logits(model, batch)
        hook.remove()
        return caught[0]

    nothing = {name: Behind(one.moments * 0, one.means * 0) for name, one in bank.behind.items()}
    wanted, errors = states(source.model), []
    for behind in (bank.behind, nothing):
        model, _ = pruned_model(source, plan, bank.hessians, bank.orders, behind)
        errors.append(float((states(model) - wanted).square().sum()))
    assert errors[0] < 0.9 * errors[1]
    kept = f"decoder.{len(layers) - 1}.ffn"
    assert removed_behind(kept, plan) == [f"decoder.{len(layers)}.attention", f"decoder.{len(layers)}.ffn"]
    assert removed_behind(kept, whole) == []


def test_sixteen_bits_and_nothing_pruned_is_the_source(source: Source, bank: Bank) -> None:
    compressed = compress(source, uniform_plan(source.layout, WHOLE), bank, seed=0)
    assert divergence(compressed.model, bank.curriculum.lessons) == pytest.approx(0, abs=1e-6)


def test_healing_brings_a_pruned_model_closer_to_the_source(source: Source, bank: Bank) -> None:
    plan = uniform_plan(source.layout, WHOLE)
    gone = tuple(replace(layer, ffn=replace(layer.ffn, kept=0)) for layer in plan.decoder)
    plan = replace(plan, decoder=gone, vocabulary=source.vocabulary.seen)
    settings = HealSettings(reference_share=0.0)
    before = compress(source, plan, bank, seed=0).model
    healed = replace(plan, heal=Heal(20, 0, 1.0))
    after = [compress(source, healed, bank, seed=7, coach=Coach(7, settings)).model for _ in range(2)]
    lessons = bank.curriculum.of(plan.vocabulary)
    assert divergence(after[0], lessons) < 0.8 * divergence(before, lessons)
    assert divergence(after[0], lessons) == divergence(after[1], lessons)


def test_damaged_checkpoints_are_refused(source: Source, bank: Bank, tmp_path: Path) -> None:
    plan = uniform_plan(source.layout, Packed(2, 128))
    stored = compress(source, plan, bank, seed=0).stored
    write_checkpoint(tmp_path / "a", source, plan, stored)
    weights = tmp_path / "a" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="damaged"):
        load_checkpoint(tmp_path / "a")
    weights.write_bytes(whole)
    other = plan_from_json((tmp_path / "a" / "plan.json").read_text())
    (tmp_path / "a" / "plan.json").write_text(replace(other, embedding=Packed(3, 128)).to_json())
    with pytest.raises(UserError, match=r"plan\.json is damaged"):
        load_checkpoint(tmp_path / "a")
    summed(tmp_path / "a")
    with pytest.raises(UserError, match="embedding"):
        load_checkpoint(tmp_path / "a")


def test_units_may_take_what_others_leave_and_no_more(source: Source, bank: Bank, tmp_path: Path) -> None:
    plan = uniform_plan(source.layout, Coded(1.6))
    stored = compress(source, plan, bank, seed=0).stored
    assert any(weights.spare_bytes < 0 for weights in stored)
    assert 0 <= sum(weights.spare_bytes for weights in stored) < 100
    write_checkpoint(tmp_path / "a", source, plan, stored)
    read_plan(tmp_path / "a")
    weights = tmp_path / "a" / "model.safetensors"
    tensors = load_file(weights)
    tensors["embedding"] = torch.cat([tensors["embedding"], torch.zeros(150, dtype=torch.uint8)])
    save_file(tensors, weights)
    summed(tmp_path / "a")
    with pytest.raises(UserError, match=r"model\.safetensors is larger than plan\.json says"):
        read_plan(tmp_path / "a")


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_unpack_inverts_pack(bits: int) -> None:
    codes = torch.randint(0, 2**bits, (7, 13), generator=torch.Generator().manual_seed(bits)).to(torch.uint8)
    data = pack(codes, bits)
    assert len(data) == -(-7 * 13 * bits // 8)
    found, rest = unpack(memoryview(data + b"x"), bits, 7, 13)
    assert torch.equal(found, codes)
    assert bytes(rest) == b"x"


@pytest.mark.parametrize("columns", [40, 64, 100])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_scales_are_error_optimal_close_to_a_fine_search(bits: int, columns: int) -> None:
    weight = torch.randn(6, columns, generator=torch.Generator().manual_seed(bits * columns))
    found = quantize(weight, Packed(bits, 64), Hessian(torch.ones(6))).values()
    middle, plain = 1 << (bits - 1), 0.0
    for row in weight:
        for start in range(0, columns, 64):
            group = row[start : start + 64]
            scales = torch.linspace(-1.2, 1.2, 4001)[:, None] * group.abs().max() / middle + 1e-9
            levels = (group / scales).round().clamp(-middle, middle - 1)
            plain += float((group - levels * scales).pow(2).sum(1).min())
    assert float((found - weight).pow(2).sum()) <= plain * (1.1 if bits < 8 else 1.5) + 1e-6
