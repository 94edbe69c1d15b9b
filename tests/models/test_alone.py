"""Checkpoints read by transformers alone: the same logits bit for bit, whole or refused, nothing lost in silence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2AudioForConditionalGeneration,
    Qwen2ForCausalLM,
)
from transformers import dynamic_module_utils as remote

from compress.checkpoint import load_checkpoint, write_checkpoint
from compress.heal import make_lessons
from compress.pipeline import compress
from models.anatomy import decoder
from models.inputs import make_batch
from models.loading import Source, load_processor
from models.packaging import summed
from space.plan import REMOVED, Layer, Plan, Sublayer, uniform_plan
from space.rates import WHOLE, Coded, Packed
from tests.tiny import TINY, load_tiny, make_bank, tiny_rows

STOCK = {
    "qwen2_audio": Qwen2AudioForConditionalGeneration,
    "qwen2": Qwen2ForCausalLM,
    "llama": LlamaForCausalLM,
}


@pytest.fixture(autouse=True, scope="module")
def modules_of_their_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A checkpoint's code is copied where tests leave nothing behind; HF_MODULES_CACHE is read once, at import."""
    modules = str(tmp_path_factory.mktemp("modules"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_MODULES_CACHE", modules)
        patch.setattr(remote, "HF_MODULES_CACHE", modules)
        patch.setattr(sys, "path", [*sys.path])
        yield


def uneven(source: Source) -> Plan:
    """No two layers of one width, every kind of rate, sublayers and a layer gone, half the vocabulary."""
    plan = uniform_plan(source.layout, Packed(4, 32))
    layers = (
        Layer(Sublayer(2, Coded(3.0)), Sublayer(64, Packed(3, 64))),
        Layer(REMOVED, Sublayer(100, WHOLE)),
        Layer(Sublayer(1, Packed(2, 128)), REMOVED),
    )
    encoder = ()
    if plan.encoder:
        encoder = (plan.encoder[0], Layer(Sublayer(1, Coded(2.5)), REMOVED), Layer(REMOVED, REMOVED))
    return replace(plan, encoder=encoder, decoder=layers, vocabulary=source.vocabulary.seen, embedding=Coded(4.0))


@pytest.fixture(scope="module", params=TINY)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp(kind)
    source = load_tiny(base / "source", kind)
    rows = tiny_rows(source)
    bank = make_bank(
        source, [make_batch(rows, source.model.generation_config.pad_token_id)], make_lessons(source.model, rows)
    )
    plan = uneven(source)
    write_checkpoint(base / "stored", source, plan, compress(source, plan, bank, seed=0).stored)
    return base / "stored"


def alone(folder: Path, **given: Any) -> PreTrainedModel:
    automatic = AutoModelForSeq2SeqLM if "audio" in (folder / "config.json").read_text() else AutoModelForCausalLM
    return automatic.from_pretrained(folder, trust_remote_code=True, **given)


def inputs(folder: Path) -> dict[str, torch.Tensor]:
    """A prompt for the model's own forward, with noise for the audio where it hears."""
    processor = load_processor(folder)
    if not hasattr(processor, "feature_extractor"):
        return dict(processor.tokenizer(["a small model is small"], return_tensors="pt"))
    noise = torch.randn(9000, generator=torch.Generator().manual_seed(0)).numpy()
    text = f"{processor.audio_bos_token}{processor.audio_token}{processor.audio_eos_token} Translate"
    return dict(processor(text=text, audio=noise, sampling_rate=16_000, return_tensors="pt"))


def test_logits_are_those_of_tightfit_bit_for_bit(folder: Path) -> None:
    ours, _ = load_checkpoint(folder)
    theirs = alone(folder)
    assert type(theirs).__module__.startswith("transformers_modules.")
    assert not theirs.training
    assert not any(x.is_meta for x in (*theirs.parameters(), *theirs.buffers()))
    batch = inputs(folder)
    with torch.no_grad():
        assert torch.equal(theirs(**batch).logits, ours(**batch).logits)
    assert ours.state_dict().keys() == theirs.state_dict().keys()


def test_it_generates_what_tightfit_does(folder: Path) -> None:
    ours, _ = load_checkpoint(folder)
    batch = inputs(folder)
    found, wanted = (
        model.generate(**batch, max_new_tokens=8, min_new_tokens=8, do_sample=False) for model in (alone(folder), ours)
    )
    assert found.shape[1] == batch["input_ids"].shape[1] + 8
    assert torch.equal(found, wanted)


def test_arguments_are_heeded_or_refused(folder: Path) -> None:
    narrow = alone(folder, dtype="bfloat16", attn_implementation="eager", device_map={"": "cpu"})
    assert {x.dtype for x in narrow.parameters()} == {narrow.dtype} == {narrow.config.dtype} == {torch.bfloat16}
    assert {x.dtype for x in narrow.buffers()} <= {torch.float32}
    assert decoder(narrow).config._attn_implementation == "eager"
    direct = type(narrow).from_pretrained(folder, attn_implementation="eager", device_map="auto")
    assert (direct.dtype, decoder(direct).config._attn_implementation) == (torch.float32, "eager")
    with pytest.raises(ValueError, match="cannot heed output_loading_info"):
        alone(folder, output_loading_info=True)
    with pytest.raises(ValueError, match="one device"):
        alone(folder, device_map={"model": "cpu", "lm_head": "cpu"})


def test_tied_weights_stay_tied(folder: Path, kind: str) -> None:
    model = alone(folder)
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == (kind == "llama")


def test_saving_again_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(NotImplementedError, match="copy the folder"):
        alone(folder).save_pretrained(tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_transformers_own_classes_refuse_it(folder: Path, kind: str) -> None:
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        STOCK[kind].from_pretrained(folder)
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False)


def copied(folder: Path, to: Path) -> Path:
    to.mkdir()
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


def changed(whole: bytes) -> bytes:
    """With one byte changed, the last digit: JSON stays JSON."""
    place = max(whole.rfind(digit) for digit in (b"1", b"2", b"3", b"5"))
    return whole[:place] + b"4" + whole[place + 1 :]


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("model.safetensors", changed),
        ("model.safetensors", lambda whole: whole[:-7]),
        ("plan.json", changed),
        ("plan.json", lambda whole: whole[:-7]),
        ("config.json", changed),  # cut short it is transformers' own to refuse
    ],
)
def test_damage_is_one_line(folder: Path, tmp_path: Path, name: str, damage: Callable[[bytes], bytes]) -> None:
    path = copied(folder, tmp_path / "damaged") / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=f"{name} is damaged, .*copy the checkpoint again") as caught:
        alone(path.parent)
    assert "\n" not in str(caught.value)


def test_bytes_that_do_not_fit_the_plan_are_named(folder: Path, tmp_path: Path) -> None:
    other = copied(folder, tmp_path / "other")
    plan = json.loads((other / "plan.json").read_text())
    plan["embedding"] = "8g64"
    (other / "plan.json").write_text(json.dumps(plan))
    summed(other)
    with pytest.raises(ValueError, match="embedding does not fit"):
        alone(other)


def test_sums_name_every_other_file(folder: Path) -> None:
    listed = [line.split("  ")[1] for line in (folder / "SHA256SUMS").read_text().splitlines()]
    assert sorted([*listed, "SHA256SUMS"]) == sorted(os.listdir(folder))
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=folder, check=True)
