"""Where each unit's weights live in a model, and carving a model into the shapes of a plan."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, Qwen2AudioForConditionalGeneration

from space.plan import Plan


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


def audio_tower(model: PreTrainedModel) -> Any:
    """The encoder of a Qwen2-Audio; None of a decoder-only model."""
    return model.model.audio_tower if isinstance(model, Qwen2AudioForConditionalGeneration) else None


def decoder(model: PreTrainedModel) -> Any:
    """The stack of decoder layers with its embedding and last norm."""
    return model.model.language_model if isinstance(model, Qwen2AudioForConditionalGeneration) else model.model


def tied(model: PreTrainedModel) -> bool:
    """Whether lm_head is the embedding."""
    return bool(model.lm_head.weight is decoder(model).embed_tokens.weight)


def carve(model: PreTrainedModel, plan: Plan) -> None:
    """Gives a source-shaped model the shapes of a plan in place; weights of what is narrowed are left undefined."""
    audio, text = audio_tower(model), decoder(model)
    if audio is not None:
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
        audio.layers = nn.ModuleList(audio.layers[i] for i in present(plan, "encoder"))
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
            layer.mlp.down_proj.bias, layer.post_attention_layernorm = None, nn.Identity()
    text.layers = nn.ModuleList(text.layers[i] for i in present(plan, "decoder"))
    _renumber(text)
    _trim(model, plan.vocabulary)


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


def _renumber(text: Any) -> None:
    """Cache slots must be filled from 0 without gaps: generation asks slot 0 how long the text is."""
    attentions = [x.self_attn for x in text.layers if not isinstance(x.self_attn, GoneAttention)]
    for slot, attention in enumerate(attentions):
        attention.layer_idx = slot
    text.config.num_hidden_layers = len(text.layers)
    if getattr(text.config, "layer_types", None) is not None:
        text.config.layer_types = ["full_attention"] * len(text.layers)


def _trim(model: PreTrainedModel, vocabulary: int) -> None:
    """Gives embedding and lm_head a row for each token that stays."""
    text, old = decoder(model), decoder(model).embed_tokens
    if old.num_embeddings == vocabulary:
        return
    shared = tied(model)
    like = old.weight
    text.embed_tokens = nn.Embedding(vocabulary, old.embedding_dim, device=like.device, dtype=like.dtype)
    model.lm_head = _resized(model.lm_head, rows=vocabulary)
    if shared:
        model.lm_head.weight = text.embed_tokens.weight
    text.config.vocab_size = vocabulary


def carved_copy(model: PreTrainedModel, plan: Plan) -> PreTrainedModel:
    """A copy of the source in the plan's shapes; whatever the plan leaves whole has the source's weights."""
    carved = copy.deepcopy(model)
    carve(carved, plan)
    return carved


def places(model: PreTrainedModel, plan: Plan) -> Iterator[Place]:
    """Where each unit of `space.size.units` lives in a model carved by the plan, in the same order."""
    audio, text = audio_tower(model), decoder(model)
    norms = [text.norm]
    if audio is not None:
        norms = [audio.layer_norm, text.norm]
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
    if plan.lm_head is not None:
        yield Place("lm_head", (model.lm_head,), ())
    if audio is not None:
        yield Place("projector", (model.model.multi_modal_projector.linear,), ())
    yield Place("norms", (), tuple(norms))
