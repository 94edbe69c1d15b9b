"""Checkpoints for other runtimes: dense ones give the values rounded to bf16, packed ones exactly the stored values."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    PreTrainedModel,
    Qwen2AudioForConditionalGeneration,
)
from transformers import dynamic_module_utils as remote

from compress.checkpoint import folder_bytes, load_checkpoint, write_checkpoint
from compress.export import export
from compress.pipeline import Bank, compress
from launch import main
from models.inputs import make_batch, target_logits
from models.loading import Source, load_processor
from space.errors import UserError
from space.plan import REMOVED, Layer, Plan, Sublayer, uniform_plan
from space.rates import Coded, Packed, Rate
from tests.tiny import load_tiny


@pytest.fixture(scope="module", params=["wide", "qwen2", "llama"])
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Source:
    """Inputs are as wide as the groups of 128 that some rates have."""
    return load_tiny(tmp_path_factory.mktemp("tiny"), request.param)


@pytest.fixture(autouse=True)
def modules_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = str(tmp_path / "modules")
    monkeypatch.setenv("HF_MODULES_CACHE", modules)
    monkeypatch.setattr(remote, "HF_MODULES_CACHE", modules)
    monkeypatch.setattr(sys, "path", [*sys.path])


def stored(source: Source, bank: Bank, plan: Plan, folder: Path) -> Path:
    write_checkpoint(folder, source, plan, compress(source, plan, bank, seed=0).stored)
    return folder


def even(source: Source, rate: Rate, heads: int = 2, channels: int = 192) -> Plan:
    """Layers of one width, one of them gone, part of the vocabulary, an encoder of fewer channels."""
    plan = uniform_plan(source.layout, rate)
    layer = Layer(Sublayer(heads, rate), Sublayer(channels, rate))
    encoder = ()
    if source.layout.encoder is not None:
        whole = Layer(Sublayer(source.layout.encoder.kv_heads, Coded(3.0)), Sublayer(96, Coded(3.0)))
        encoder = (Layer(REMOVED, REMOVED), whole, whole)
    decoder = (layer, Layer(REMOVED, REMOVED), layer)
    return replace(plan, encoder=encoder, decoder=decoder, vocabulary=source.vocabulary.seen, embedding=Coded(4.0))


def uneven(source: Source) -> Plan:
    plan = even(source, Packed(4, 32))
    first, gone, last = plan.decoder
    return replace(plan, decoder=(first, gone, replace(last, ffn=Sublayer(64, Packed(4, 32)))))


def rounded(folder: Path) -> PreTrainedModel:
    """The checkpoint's model with its values rounded to bf16, computing in float32."""
    model, _ = load_checkpoint(folder)
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16().float()
    return model


def logits(model: PreTrainedModel, source: Source, plan: Plan, bank: Bank) -> Tensor:
    rows = [lesson.row for lesson in bank.curriculum.of(plan.vocabulary)]
    batch = make_batch(rows, source.vocabulary.kept(plan.vocabulary).index(0))
    with torch.no_grad():
        return target_logits(model, batch)


def stock(folder: Path, **given: Any) -> PreTrainedModel:
    automatic = AutoModelForSeq2SeqLM if "audio" in (folder / "config.json").read_text() else AutoModelForCausalLM
    model, loading = automatic.from_pretrained(folder, dtype=torch.float32, output_loading_info=True, **given)
    assert not any(loading.values())
    return model


def test_dense_loads_by_transformers_own_class(source: Source, bank: Bank, tmp_path: Path) -> None:
    plan = even(source, Coded(3.0))
    folder = stored(source, bank, plan, tmp_path / "checkpoint")
    done = export(folder, "dense", tmp_path / "dense")
    assert done.stock
    assert done.bytes == folder_bytes(tmp_path / "dense")
    assert not list((tmp_path / "dense").glob("*.py"))
    found = stock(tmp_path / "dense")
    assert type(found).__module__.startswith("transformers.models.")
    assert torch.equal(logits(found, source, plan, bank), logits(rounded(folder), source, plan, bank))
    assert len(load_processor(tmp_path / "dense").tokenizer) <= plan.vocabulary
    assert {x.dtype for x in load_file(tmp_path / "dense" / "model.safetensors").values()} == {torch.bfloat16}


def test_uneven_layers_are_dense_for_the_shipped_reader(source: Source, bank: Bank, tmp_path: Path) -> None:
    plan = uneven(source)
    folder = stored(source, bank, plan, tmp_path / "checkpoint")
    done = export(folder, "dense", tmp_path / "dense")
    assert not done.stock
    assert done.remark == "needs trust_remote_code, because decoder layer 2 keeps 64 channels, layer 0 192"
    wanted = logits(rounded(folder), source, plan, bank)
    ours, whole = load_checkpoint(tmp_path / "dense")
    assert {whole.decoder[0].ffn.rate, whole.embedding} == {Packed(16, 0)}
    assert torch.equal(logits(ours, source, plan, bank), wanted)
    kind = AutoModelForSeq2SeqLM if isinstance(ours, Qwen2AudioForConditionalGeneration) else AutoModelForCausalLM
    alone = kind.from_pretrained(tmp_path / "dense", trust_remote_code=True)
    assert torch.equal(logits(alone, source, plan, bank), wanted)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda layer: replace(layer, attention=REMOVED), "decoder layer 0 has no attention"),
        (lambda layer: replace(layer, ffn=REMOVED), "decoder layer 0 has no ffn"),
        (lambda layer: replace(layer, attention=replace(layer.attention, kept=1)), "layer 2 keeps 2 heads, layer 0 1"),
    ],
)
def test_the_first_layer_that_differs_is_named(
    source: Source, bank: Bank, tmp_path: Path, change: Any, reason: str
) -> None:
    plan = even(source, Packed(4, 32))
    plan = replace(plan, decoder=(change(plan.decoder[0]), *plan.decoder[1:]))
    folder = stored(source, bank, plan, tmp_path / "checkpoint")
    assert reason in export(folder, "dense", tmp_path / "dense").remark
    with pytest.raises(UserError, match=f"{reason}.*export it --to dense"):
        export(folder, "gptq", tmp_path / "gptq")
    assert not (tmp_path / "gptq").exists()


def unpacked(words: Tensor, bits: int) -> Tensor:
    """Integers down the columns of 32-bit words, bit after bit from the lowest: the plain way."""
    stream = torch.stack([(words.long() >> bit) & 1 for bit in range(32)], 1).reshape(-1, words.shape[1])
    places = torch.tensor([1 << bit for bit in range(bits)])[:, None]
    return (stream.view(-1, bits, words.shape[1]) * places).sum(1)


def dequantized(tensors: dict[str, Tensor], name: str, bits: int) -> Tensor:
    """A weight (outputs, inputs) as the format's description has it; zeros are stored less one."""
    codes = unpacked(tensors[f"{name}.qweight"], bits)
    zeros = unpacked(tensors[f"{name}.qzeros"].T, bits).T + 1
    groups = tensors[f"{name}.g_idx"].long()
    return ((codes - zeros[groups]).float() * tensors[f"{name}.scales"].float()[groups]).T


@pytest.mark.parametrize("rate", [Packed(2, 64), Packed(3, 32), Packed(4, 32), Packed(4, 128), Packed(8, 32)])
def test_gptq_stands_for_the_stored_values(source: Source, bank: Bank, tmp_path: Path, rate: Packed) -> None:
    plan = even(source, rate)
    other = Packed(8 if rate.bits < 8 else 4, 32)
    plan = replace(plan, decoder=(*plan.decoder[:2], replace(plan.decoder[2], ffn=Sublayer(192, other))))
    folder = stored(source, bank, plan, tmp_path / "checkpoint")
    export(folder, "gptq", tmp_path / "gptq")
    model, _ = load_checkpoint(folder)
    tensors = load_file(tmp_path / "gptq" / "model.safetensors")
    config = json.loads((tmp_path / "gptq" / "config.json").read_text())["quantization_config"]
    assert {config[name] for name in ("quant_method", "checkpoint_format")} == {"gptq"}
    assert (config["sym"], config["desc_act"], config["bits"]) == (True, False, rate.bits)
    assert list(config["dynamic"]) == [r"+:.*\.layers\.1\.mlp\..*"]
    heard = isinstance(model, Qwen2AudioForConditionalGeneration)
    stack, prefix = (model.model.language_model, "language_model.model") if heard else (model.model, "model")
    seen = set()
    for number, layer in enumerate(stack.layers):
        for part, names in (("self_attn", "qkvo"), ("mlp", ("gate", "up", "down"))):
            bits = other.bits if (number, part) == (1, "mlp") else rate.bits
            for name in names:
                path = f"{prefix}.layers.{number}.{part}.{name}_proj"
                linear = getattr(getattr(layer, part), f"{name}_proj")
                assert torch.equal(dequantized(tensors, path, bits), linear.weight)
                assert (linear.bias is None) == (f"{path}.bias" not in tensors)
                groups = tensors[f"{path}.scales"].shape[0]
                assert tensors[f"{path}.g_idx"].tolist() == [
                    x * groups // linear.in_features for x in range(linear.in_features)
                ]
                seen.add(path)
    assert {name.removesuffix(".qweight") for name in tensors if name.endswith(".qweight")} == seen
    assert torch.equal(tensors[f"{prefix}.embed_tokens.weight"], stack.embed_tokens.weight.bfloat16())
    dtypes = {name.rsplit(".")[-1]: tensor.dtype for name, tensor in tensors.items()}
    assert (dtypes["qweight"], dtypes["qzeros"], dtypes["g_idx"]) == (torch.int32,) * 3
    assert (dtypes["scales"], dtypes["weight"]) == (torch.float16, torch.bfloat16)


def test_what_gptq_cannot_hold_is_refused_by_name(source: Source, bank: Bank, tmp_path: Path) -> None:
    six = stored(source, bank, even(source, Packed(6, 32)), tmp_path / "six")
    with pytest.raises(UserError, match=r"decoder layer 0 has its attention at rate 6g32; GPTQ packs 2, 3, 4, 8 bits"):
        export(six, "gptq", tmp_path / "out")
    coded = stored(source, bank, even(source, Coded(3.0)), tmp_path / "coded")
    with pytest.raises(UserError, match=r"decoder layer 0 has its attention at rate c3; .*export it --to dense"):
        export(coded, "gptq", tmp_path / "out")
    narrow = stored(source, bank, even(source, Packed(4, 32), channels=100), tmp_path / "narrow")
    with pytest.raises(UserError, match=r"gate_proj of \d+ inputs and 100 outputs; GPTQ packs multiples of 32"):
        export(narrow, "gptq", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_line(source: Source, bank: Bank, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = stored(source, bank, uneven(source), tmp_path / "checkpoint")
    arguments = ["export", str(folder), "--to", "dense", "--out", str(tmp_path / "dense")]
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stock"] is False
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith(f"tightfit: --out {tmp_path / 'dense'}: is there already")
    assert main(["export", str(source.folder), *arguments[2:-1], str(tmp_path / "other")]) == 2
    assert "no plan.json there" in capsys.readouterr().err
