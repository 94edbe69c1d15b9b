"""How activations pass each unit of a model, one unit at a time, as `models.inputs` does it for the whole."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from models.inputs import Batch, SpeechBatch, convolved, heard_mask, projected, spoken, with_audio


def _speech(batch: Batch) -> SpeechBatch:
    assert batch.speech is not None
    return batch.speech


def enter(tower: Any, _: Tensor | None, batch: Batch) -> Tensor:
    """The encoder's convolutions."""
    speech = _speech(batch)
    return convolved(tower, speech.features, speech.frames)


def listen(layer: Any, states: Tensor | None, batch: Batch) -> Tensor:
    """Attention of an encoder layer."""
    assert states is not None
    keep = heard_mask(_speech(batch).frames, states.shape[1])
    found: Tensor = states + layer.self_attn(layer.self_attn_layer_norm(states), keep)[0]
    return found


def feed_encoder(layer: Any, states: Tensor | None, _: Batch) -> Tensor:
    """FFN of an encoder layer."""
    found: Tensor = states + layer.fc2(layer.activation_fn(layer.fc1(layer.final_layer_norm(states))))
    return found


def feed_decoder(layer: Any, states: Tensor | None, _: Batch) -> Tensor:
    """FFN of a decoder layer."""
    found: Tensor = states + layer.mlp(layer.post_attention_layernorm(states))
    return found


def project(model: PreTrainedModel, states: Tensor | None, _: Batch) -> Tensor:
    """Pool, norm and projector behind the encoder."""
    assert states is not None
    return projected(model, states)


def embed(ids: Tensor, rows: Tensor, audio_token: int, audio: Tensor | None, batch: Batch) -> Tensor:
    """`models.inputs.embed` with the rows of `ids` (ascending) alone."""
    embeds = rows[torch.searchsorted(ids, batch.ids)]
    if audio is None:
        return embeds
    speech = _speech(batch)
    return with_audio(embeds, batch.ids == audio_token, spoken(audio, speech), speech)


class _Attention(nn.Module):
    """Attention of a decoder layer, in the place of all its layers."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, hidden_states: Tensor, **given: Any) -> Tensor:
        normed = self.layer.input_layernorm(hidden_states)
        found: Tensor = hidden_states + self.layer.self_attn(hidden_states=normed, **given)[0]
        return found


def attend(shell: Any, layer: Any, states: Tensor | None, batch: Batch) -> Tensor:
    """Attention of a decoder layer; `shell` is a decoder, whose masks and positions it takes."""
    shell.layers = nn.ModuleList([_Attention(layer)])
    found: Tensor = shell(inputs_embeds=states, attention_mask=batch.mask, use_cache=False).last_hidden_state
    return found
