"""Peak memory of ``launch.py compress`` on a billion random parameters: ``python -m benchmarks.streaming``."""

from __future__ import annotations

import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import (
    GenerationConfig,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    WhisperFeatureExtractor,
)

from benchmarks.publish import publish, target
from compress.checkpoint import read_plan
from compress.stream import memory_bound
from miniature.anatomy import SECONDS, train_tokenizer
from models.inputs import PROMPTS
from models.layouts import INDEX
from models.loading import read_layout
from space.layout import Layout
from space.plan import NO_HEAL, Layer, Plan, Sublayer, plan_with, uniform_plan
from space.rates import WHOLE, Coded, Packed, Rate

VOCABULARY, MEL_BINS, UTTERANCES = 32_768, 128, 4
_AUDIO = {"d_model": 1280, "encoder_layers": 14, "encoder_attention_heads": 20, "encoder_ffn_dim": 5120}
_TEXT = {"hidden_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 16, "intermediate_size": 5504}
_WIDTHS: tuple[Rate, ...] = (Packed(3, 64), Packed(4, 128))
_HUB_NAMES = (
    ("model.language_model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
    ("model.", ""),
)


def write_model(folder: Path) -> None:
    """A Qwen2-Audio in bf16 as the hub has it, a shard a layer; never more than one of them in memory."""
    tokenizer = train_tokenizer([*PROMPTS.values()] * 50)
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    ids = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end}
    config = Qwen2AudioConfig(
        audio_config={
            "model_type": "qwen2_audio_encoder",
            "num_mel_bins": MEL_BINS,
            "max_source_positions": 50 * SECONDS,
            **_AUDIO,
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": VOCABULARY,
            "num_key_value_heads": _TEXT["num_attention_heads"],
            "max_position_embeddings": 1024,
            "tie_word_embeddings": False,
            **_TEXT,
            **ids,
        },
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
        tie_word_embeddings=False,
    )
    config.save_pretrained(folder)
    GenerationConfig(**ids).save_pretrained(folder)
    extractor = WhisperFeatureExtractor(
        feature_size=MEL_BINS, sampling_rate=16_000, hop_length=160, chunk_length=SECONDS
    )
    Qwen2AudioProcessor(feature_extractor=extractor, tokenizer=tokenizer).save_pretrained(folder)
    with torch.device("meta"):
        model = Qwen2AudioForConditionalGeneration(config)
    shards: dict[str, list[tuple[str, torch.Size]]] = {}
    for name, parameter in model.named_parameters():
        head, _, rest = name.partition(".layers.")
        shards.setdefault(f"{head}.{rest.partition('.')[0]}", []).append((name, parameter.shape))
    weight_map = {}
    for number, tensors in enumerate(shards.values(), start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file({hub_name(name): _random(name, shape) for name, shape in tensors}, folder / file)
        weight_map.update({hub_name(name): file for name, _ in tensors})
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def hub_name(name: str) -> str:
    """A name as on the hub, where transformers 5 has other ones in memory."""
    for new, old in _HUB_NAMES:
        if name.startswith(new):
            return old + name.removeprefix(new)
    return name


def _random(name: str, shape: torch.Size) -> torch.Tensor:
    if len(shape) == 1:
        return torch.full(shape, float("norm" in name and name.endswith("weight")), dtype=torch.bfloat16)
    return torch.empty(shape, dtype=torch.bfloat16).normal_(0, math.prod(shape[1:]) ** -0.5)


def mixed_plan(layout: Layout) -> Plan:
    """Tables and the third layer of each tower at two bits, coded, with pruning; others at fixed widths or as they are.

    Every tensor is read and every way of storing one is taken, on two slow cores in minutes.
    """
    plan = uniform_plan(layout, WHOLE)
    towers = {}
    for tower in layout.towers:
        layers = list(plan.layers(tower))
        layers[0] = Layer(*(replace(part, rate=rate) for part, rate in zip(_parts(layers[0]), _WIDTHS, strict=True)))
        layers[2] = Layer(*(Sublayer(part.kept * 3 // 4, Coded(2.0)) for part in _parts(layers[2])))
        towers[tower.name] = tuple(layers)
    tables = {"embedding": Coded(2.0), "lm_head": Coded(2.0), "projector": Packed(4, 64), "convolutions": Coded(4.0)}
    return plan_with(towers["encoder"], towers["decoder"], tables, vocabulary=layout.vocabulary, heal=NO_HEAL)


def _parts(layer: Layer) -> tuple[Sublayer, Sublayer]:
    return layer.attention, layer.ffn


def main() -> None:
    """Writes the model, compresses it in a process of its own, and compares the process's peak with the promise."""
    with tempfile.TemporaryDirectory() as folder:
        model, out = Path(folder) / "model", Path(folder) / "out"
        model.mkdir()
        write_model(model)
        layout = read_layout(model)
        plan = Path(folder) / "plan.json"
        plan.write_text(mixed_plan(layout).to_json())
        command = [sys.executable, "launch.py", "compress", "--model", str(model), "--plan", str(plan)]
        command += ["--out", str(out), "--utterances", str(UTTERANCES), "--json"]
        started = time.monotonic()
        done = subprocess.run(  # noqa: S603
            command,
            cwd=Path(__file__).parent.parent,
            stdout=subprocess.PIPE,
            check=True,
        )
        seconds = time.monotonic() - started
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        result = json.loads(done.stdout)
        read_plan(out)
    row = {
        "M parameters": layout.parameters / 1e6,
        "MB in float32": 4 * layout.parameters / 1e6,
        "MB predicted": result["predicted_bytes"] / 1e6,
        "MB written": result["bytes"] / 1e6,
        "peak MB": peak / 1e6,
        "bound MB": memory_bound(layout) / 1e6,
        "seconds": seconds,
    }
    publish(
        "streaming",
        [row],
        [
            target("peak bytes of the process", peak, memory_bound(layout), at_least=False),
            target("bytes over those predicted", result["bytes"] - result["predicted_bytes"], 0, at_least=False),
        ],
    )


if __name__ == "__main__":
    main()
