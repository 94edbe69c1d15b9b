"""Qwen2-Audio: loading, where each unit's weights live, and carving a model into the shapes of a plan."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoProcessor, GenerationConfig, Qwen2AudioConfig, Qwen2AudioForConditionalGeneration

from space.errors import UserError, first_line
from space.layout import Layout, layout_from_config
from space.plan import Plan

# Files of a model folder that a checkpoint carries along, where the source has them.
FIXED_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "processor_config.json",
    "preprocessor_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)


@dataclass(frozen=True)
class Source:
    """The uncompressed model in float32, its processor, its layout and the files a checkpoint carries along."""

    folder: Path
    model: Qwen2AudioForConditionalGeneration
    processor: Any
    layout: Layout
    fixed_files: dict[str, bytes]

    @property
    def fixed_bytes(self) -> int:
        return sum(map(len, self.fixed_files.values()))


class GoneAttention(nn.Module):
    """In place of a removed attention sublayer: adds nothing to the residual stream."""

    def forward(self, hidden_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        return torch.zeros_like(hidden_states), None


@dataclass(frozen=True)
class Place:
    """Where a unit lives in a model: its matrices in the order of `space.size.units`, then its norms."""

    name: str
    matrices: tuple[nn.Module, ...]
    norms: tuple[nn.Module, ...]


def read_layout(folder: Path) -> Layout:
    """The layout of the model in a folder; numbers its config leaves out are transformers' defaults.

    Raises UserError where there is no readable config.json.
    """
    path = folder / "config.json"
    try:
        raw = json.loads(path.read_bytes())
        kind = raw.get("model_type") if isinstance(raw, dict) else None
        if kind != "qwen2_audio":
            raise UserError(f"{path}: model type {kind!r}; tightfit reads qwen2_audio")
        return layout_from_config(Qwen2AudioConfig.from_dict(raw).to_dict())
    except FileNotFoundError:
        raise UserError(f"{folder}: no config.json there; give the folder of a Qwen2-Audio model") from None
    except (OSError, ValueError, TypeError, AttributeError, StrictDataclassError) as error:
        raise UserError(f"{path}: not readable ({first_line(error)}); copy the model again") from error


def load_source(folder: Path) -> Source:
    """Model, processor and files of a folder, in float32 on the CPU. Raises UserError where something is missing."""
    layout = read_layout(folder)
    if not list(folder.glob("*.safetensors")):
        raise UserError(f"--model {folder}: no safetensors weights there; copy the model again, weights included")
    try:
        model, loading = Qwen2AudioForConditionalGeneration.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
        processor = load_processor(folder)
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"--model {folder}: does not load ({first_line(error)}); check the folder or copy it again"
        ) from error
    if loading["missing_keys"]:
        some = sorted(loading["missing_keys"])[0]
        raise UserError(f"--model {folder}: {len(loading['missing_keys'])} weights such as {some} are not there")
    check_tokenizer(processor, model, folder)
    return Source(folder, model.eval(), processor, layout, fixed_files(folder))


def load_processor(folder: Path) -> Any:
    """Tokenizer and feature extractor of a folder. Raises UserError where they do not load."""
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        # transformers would make an empty tokenizer of the other files
        raise UserError(f"{folder}: no tokenizer.json there; copy the folder again")
    try:
        return AutoProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = first_line(error)
        raise UserError(f"{folder}: tokenizer or processor does not load ({reason}); copy the folder again") from error


def check_tokenizer(processor: Any, model: Qwen2AudioForConditionalGeneration, folder: Path) -> None:
    """Raises UserError where the tokenizer is not the model's: its audio token has another id."""
    if processor.tokenizer.convert_tokens_to_ids(processor.audio_token) != model.config.audio_token_index:
        raise UserError(f"{folder}: the tokenizer is not the one of config.json; copy the folder again")


def fixed_files(folder: Path) -> dict[str, bytes]:
    """Bytes of the files a checkpoint carries along; JSON without its white space, as it counts."""
    found = {name: (folder / name).read_bytes() for name in FIXED_FILES if (folder / name).exists()}
    return {name: _compact(data) if name.endswith(".json") else data for name, data in found.items()}


def _compact(data: bytes) -> bytes:
    return json.dumps(json.loads(data), ensure_ascii=False, separators=(",", ":")).encode()


def empty_model(folder: Path) -> Qwen2AudioForConditionalGeneration:
    """A model of a folder's config with weights that mean nothing yet, in float32."""
    model = Qwen2AudioForConditionalGeneration(Qwen2AudioConfig.from_pretrained(folder, local_files_only=True)).eval()
    if (folder / "generation_config.json").exists():
        try:
            model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, TypeError) as error:
            reason = first_line(error)
            raise UserError(f"{folder}: generation_config.json does not load ({reason}); copy it again") from error
    return model


def carve(model: Qwen2AudioForConditionalGeneration, plan: Plan) -> None:
    """Gives a source-shaped model the shapes of a plan in place; weights of narrowed sublayers are left undefined."""
    audio, text = model.model.audio_tower, model.model.language_model
    for layer, spec in zip(audio.layers, plan.encoder, strict=True):
        if spec.attention.kept:
            layer.self_attn.num_heads = spec.attention.kept
            inner = spec.attention.kept * layer.self_attn.head_dim
            _resize_attention(layer.self_attn, inner, inner, "out_proj")
        else:
            layer.self_attn, layer.self_attn_layer_norm = GoneAttention(), nn.Identity()
        layer.fc1, layer.fc2 = _resized(layer.fc1, rows=spec.ffn.kept), _resized(layer.fc2, columns=spec.ffn.kept)
        if not spec.ffn.kept:
            layer.fc2.bias, layer.final_layer_norm = None, nn.Identity()
    for layer, spec in zip(text.layers, plan.decoder, strict=True):
        if spec.attention.kept:
            keys = spec.attention.kept * layer.self_attn.head_dim
            _resize_attention(layer.self_attn, keys * layer.self_attn.num_key_value_groups, keys, "o_proj")
        else:
            layer.self_attn, layer.input_layernorm = GoneAttention(), nn.Identity()
        for name in ("gate_proj", "up_proj"):
            setattr(layer.mlp, name, _resized(getattr(layer.mlp, name), rows=spec.ffn.kept))
        layer.mlp.down_proj = _resized(layer.mlp.down_proj, columns=spec.ffn.kept)
        if not spec.ffn.kept:
            layer.post_attention_layernorm = nn.Identity()
    audio.layers = nn.ModuleList(audio.layers[i] for i in present(plan, "encoder"))
    text.layers = nn.ModuleList(text.layers[i] for i in present(plan, "decoder"))
    _renumber(model)


def present(plan: Plan, tower: str) -> list[int]:
    """Source indices of the layers of which anything stays."""
    return [i for i, layer in enumerate(getattr(plan, tower)) if layer.attention.kept or layer.ffn.kept]


def _resize_attention(attention: nn.Module, queries: int, keys: int, output: str) -> None:
    for name, rows in (("q_proj", queries), ("k_proj", keys), ("v_proj", keys)):
        setattr(attention, name, _resized(getattr(attention, name), rows=rows))
    setattr(attention, output, _resized(getattr(attention, output), columns=queries))


def _resized(linear: nn.Linear, rows: int | None = None, columns: int | None = None) -> nn.Linear:
    rows = linear.out_features if rows is None else rows
    columns = linear.in_features if columns is None else columns
    if (rows, columns) == (linear.out_features, linear.in_features):
        return linear
    like = linear.weight
    with warnings.catch_warnings():
        # torch warns of matrices without entries; a removed FFN is exactly that
        warnings.simplefilter("ignore", UserWarning)
        return nn.Linear(columns, rows, bias=linear.bias is not None, device=like.device, dtype=like.dtype)


def _renumber(model: Qwen2AudioForConditionalGeneration) -> None:
    """Cache slots must be filled from 0 without gaps: generation asks slot 0 how long the text is."""
    text = model.model.language_model
    attentions = [x.self_attn for x in text.layers if not isinstance(x.self_attn, GoneAttention)]
    for slot, attention in enumerate(attentions):
        attention.layer_idx = slot
    config = text.config
    config.num_hidden_layers = len(text.layers)
    config.layer_types = ["full_attention"] * len(text.layers)


def carved_copy(source: Source, plan: Plan) -> Qwen2AudioForConditionalGeneration:
    """A copy of the source in the plan's shapes; whatever the plan leaves whole has the source's weights."""
    model = copy.deepcopy(source.model)
    carve(model, plan)
    return model


def places(model: Qwen2AudioForConditionalGeneration, plan: Plan) -> Iterator[Place]:
    """Where each unit of `space.size.units` lives in a model carved by the plan, in the same order."""
    audio, text = model.model.audio_tower, model.model.language_model
    yield Place("convolutions", (audio.conv1, audio.conv2, audio.embed_positions), ())
    for layer, index in zip(audio.layers, present(plan, "encoder"), strict=True):
        spec, attention = plan.encoder[index], layer.self_attn
        if spec.attention.kept:
            matrices = (attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj)
            yield Place(f"encoder.{index}.attention", matrices, (layer.self_attn_layer_norm,))
        if spec.ffn.kept:
            yield Place(f"encoder.{index}.ffn", (layer.fc1, layer.fc2), (layer.final_layer_norm,))
    for layer, index in zip(text.layers, present(plan, "decoder"), strict=True):
        spec, attention, mlp = plan.decoder[index], layer.self_attn, layer.mlp
        if spec.attention.kept:
            matrices = (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)
            yield Place(f"decoder.{index}.attention", matrices, (layer.input_layernorm,))
        if spec.ffn.kept:
            channels = (mlp.gate_proj, mlp.up_proj, mlp.down_proj)
            yield Place(f"decoder.{index}.ffn", channels, (layer.post_attention_layernorm,))
    yield Place("embedding", (text.embed_tokens,), ())
    yield Place("lm_head", (model.lm_head,), ())
    yield Place("projector", (model.model.multi_modal_projector.linear,), ())
    yield Place("norms", (), (audio.layer_norm, text.norm))
