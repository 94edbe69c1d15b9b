"""From utterances to tensors: features once for each utterance, one row for each utterance and direction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import Qwen2AudioForConditionalGeneration

PROMPTS = {
    "de": "Translate the English speech into German:",
    "zh": "Translate the English speech into Chinese:",
}


def audio_tokens(frames: int) -> int:
    """How many audio tokens Qwen2-Audio makes of this many mel frames."""
    return ((frames - 1) // 2 + 1 - 2) // 2 + 1


@dataclass(frozen=True)
class Speech:
    """Mel features (mel bins, frames of the longest audio) and how many frames hold speech."""

    features: Tensor
    frames: int

    @property
    def audio_tokens(self) -> int:
        return audio_tokens(self.frames)


@dataclass(frozen=True)
class Row:
    """One direction of one utterance: `speech` and token ids of prompt and target (end of text included)."""

    speech: Speech
    prompt: tuple[int, ...]
    target: tuple[int, ...]


@dataclass(frozen=True)
class Batch:
    """`features` (utterances, mel bins, frames), `frames` (utterances,), and rows padded on the right.

    `ids`, `mask` are (rows, length); `audio_of` (rows,) is the row's utterance; `predicts` (rows, length - 1) marks the
    positions whose next token belongs to the target.
    """

    features: Tensor
    frames: Tensor
    ids: Tensor
    mask: Tensor
    audio_of: Tensor
    predicts: Tensor
    audio_tokens: Tensor

    @property
    def targets(self) -> Tensor:
        """Target ids, row after row (predicted tokens,)."""
        return self.ids[:, 1:][self.predicts]


def featurize(processor: Any, audio: NDArray[np.float32]) -> Speech:
    """Mel features of 16 kHz samples, padded or cut to the model's longest audio."""
    out = processor.feature_extractor(
        audio, sampling_rate=16_000, padding="max_length", return_attention_mask=True, return_tensors="pt"
    )
    return Speech(out["input_features"][0], int(out["attention_mask"].sum()))


def make_row(processor: Any, speech: Speech, language: str, target: str) -> Row:
    """Prompt in the base model's form, and target, as token ids."""
    tokenizer = processor.tokenizer
    audio = processor.audio_token * speech.audio_tokens
    text = f"{processor.audio_bos_token}{audio}{processor.audio_eos_token}{PROMPTS[language]}"
    prompt = tokenizer(text, add_special_tokens=False).input_ids
    ids = tokenizer(target, add_special_tokens=False).input_ids if target else []
    return Row(speech, tuple(prompt), (*ids, tokenizer.eos_token_id))


def make_batch(rows: Sequence[Row], pad: int) -> Batch:
    """Rows of one batch; rows of the same utterance share its features."""
    speeches = list({id(row.speech): row.speech for row in rows}.values())
    index = {id(speech): i for i, speech in enumerate(speeches)}
    longest = max(len(row.prompt) + len(row.target) for row in rows)
    ids = torch.full((len(rows), longest), pad)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    predicts = torch.zeros((len(rows), longest - 1), dtype=torch.bool)
    for i, row in enumerate(rows):
        length = len(row.prompt) + len(row.target)
        ids[i, :length] = torch.tensor(row.prompt + row.target)
        mask[i, :length] = 1
        predicts[i, len(row.prompt) - 1 : length - 1] = True
    frames = torch.tensor([speech.frames for speech in speeches])
    return Batch(
        features=torch.stack([speech.features for speech in speeches]),
        frames=frames,
        ids=ids,
        mask=mask,
        audio_of=torch.tensor([index[id(row.speech)] for row in rows]),
        predicts=predicts,
        audio_tokens=torch.tensor([speech.audio_tokens for speech in speeches]),
    )


def batches(rows: Sequence[Row], size: int, pad: int) -> Iterator[Batch]:
    """Consecutive batches of at most `size` rows."""
    for start in range(0, len(rows), size):
        yield make_batch(rows[start : start + size], pad)


def encode_audio(model: Qwen2AudioForConditionalGeneration, features: Tensor, frames: Tensor) -> Tensor:
    """Projected audio embeddings (utterances, longest, hidden): what the model's own forward computes, without padding.

    Features are cut a few frames behind the longest speech; the states of valid frames never see that far.
    """
    tower = model.model.audio_tower
    used = min(features.shape[2], (int(frames.max()) + 8 + 3) // 4 * 4)
    states = nn.functional.gelu(tower.conv1(features[:, :, :used]))
    states = nn.functional.gelu(tower.conv2(states)).permute(0, 2, 1)
    states = states + tower.embed_positions.weight[: states.shape[1]]
    lengths = (frames - 1) // 2 + 1
    keep = (torch.arange(states.shape[1])[None] < lengths[:, None])[:, None, None, :]
    keep = keep.expand(-1, -1, states.shape[1], -1)
    for layer in tower.layers:
        states = layer(states, keep)
    pooled = tower.avg_pooler(states.permute(0, 2, 1)).permute(0, 2, 1)
    projected: Tensor = model.model.multi_modal_projector(tower.layer_norm(pooled))
    return projected


def embed(model: Qwen2AudioForConditionalGeneration, batch: Batch) -> Tensor:
    """Input embeddings (rows, length, hidden) with the audio in its place."""
    audio = encode_audio(model, batch.features, batch.frames)
    embeds: Tensor = model.get_input_embeddings()(batch.ids)
    pieces = [audio[i, : int(batch.audio_tokens[i])] for i in batch.audio_of.tolist()]
    places = batch.ids == model.config.audio_token_index
    return embeds.masked_scatter(places[..., None], torch.cat(pieces).to(embeds.dtype))


def target_logits(model: Qwen2AudioForConditionalGeneration, batch: Batch) -> Tensor:
    """Teacher-forced logits of the target tokens (predicted tokens, vocabulary)."""
    hidden = model.model.language_model(
        inputs_embeds=embed(model, batch), attention_mask=batch.mask, use_cache=False
    ).last_hidden_state
    logits: Tensor = model.lm_head(hidden[:, :-1][batch.predicts])
    return logits
