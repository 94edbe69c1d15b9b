"""From utterances to tensors: features once for each utterance, one row for each utterance and direction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from models.anatomy import audio_tower, decoder
from models.devices import in_precision

PROMPTS = {
    "de": "Translate the English speech into German:",
    "zh": "Translate the English speech into Chinese:",
}
# How models are asked: the base model by audio and instruction, an Instruct one in ChatML as its template has it.
_BASE = "{audio}{instruction}"
_END_OF_TURN = "<|im_end|>"
_CHAT = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nAudio 1: {audio}\n{instruction}"
    "<|im_end|>\n<|im_start|>assistant\n"
)
# For decoder-only models, which read the utterance as text.
TEXT_PROMPTS = {
    "de": "Translate the English text into German: {text}\nGerman:",
    "zh": "Translate the English text into Chinese: {text}\nChinese:",
}


# Positions of a batch that is only run, not trained on: rows times the longest one's tokens.
MOST_POSITIONS = 8192


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
    """One direction of one utterance: token ids of prompt and target (end of text included), and its speech, if any."""

    speech: Speech | None
    prompt: tuple[int, ...]
    target: tuple[int, ...]


@dataclass(frozen=True)
class SpeechBatch:
    """`features` (utterances, mel bins, frames), `frames` and `audio_tokens` (utterances,); `of_row` (rows,)."""

    features: Tensor
    frames: Tensor
    audio_tokens: Tensor
    of_row: Tensor

    def to(self, device: torch.device) -> SpeechBatch:
        return SpeechBatch(*(getattr(self, field.name).to(device) for field in fields(self)))


@dataclass(frozen=True)
class Batch:
    """Rows padded on the right: `ids`, `mask` are (rows, length).

    `predicts` (rows, length - 1) marks the positions whose next token belongs to the target.
    """

    speech: SpeechBatch | None
    ids: Tensor
    mask: Tensor
    predicts: Tensor

    @property
    def targets(self) -> Tensor:
        """Target ids, row after row (predicted tokens,)."""
        return self.ids[:, 1:][self.predicts]

    def to(self, device: torch.device) -> Batch:
        """The batch on a device; made in host memory, it goes where the model is when its turn has come."""
        speech = None if self.speech is None else self.speech.to(device)
        return Batch(speech, self.ids.to(device), self.mask.to(device), self.predicts.to(device))


def featurize(processor: Any, audio: NDArray[np.float32]) -> Speech:
    """Mel features of 16 kHz samples, padded or cut to the model's longest audio."""
    out = processor.feature_extractor(
        audio, sampling_rate=16_000, padding="max_length", return_attention_mask=True, return_tensors="pt"
    )
    return Speech(out["input_features"][0], int(out["attention_mask"].sum()))


def read_utterance(processor: Any, utterance: NDArray[np.float32] | str) -> Speech | str:
    """An utterance as rows are made of it: features of samples; a text as it is."""
    return utterance if isinstance(utterance, str) else featurize(processor, utterance)


def make_row(
    processor: Any, utterance: Speech | str, language: str, target: str, instruction: str | None = None
) -> Row:
    """Prompt and target as token ids: for speech in the model's own form, for text with the text in it.

    An `instruction` of the utterance's own is in place of the direction's.
    """
    tokenizer = processor.tokenizer
    if isinstance(utterance, Speech):
        speech = utterance
        audio = processor.audio_token * speech.audio_tokens
        heard = f"{processor.audio_bos_token}{audio}{processor.audio_eos_token}"
        form = _CHAT if converses(processor) else _BASE
        text = form.format(audio=heard, instruction=instruction or PROMPTS[language])
        prompt = tokenizer(text, add_special_tokens=False).input_ids
    else:
        speech = None
        words = f"{instruction} {utterance}\n" if instruction else TEXT_PROMPTS[language].format(text=utterance)
        prompt = tokenizer(words).input_ids
    ids = tokenizer(target, add_special_tokens=False).input_ids if target else []
    return Row(speech, tuple(prompt), (*ids, tokenizer.eos_token_id))


def converses(processor: Any) -> bool:
    """Whether the model is an Instruct one, which is asked in turns of a conversation: its texts end with a turn.

    Templates tell nothing: every Qwen2-Audio processor has one.
    """
    return bool(processor.tokenizer.eos_token == _END_OF_TURN)


def asked(processor: Any, language: str, instruction: str | None = None) -> str:
    """The words around an utterance's audio, all of whose tokens a vocabulary must keep."""
    form = _CHAT if converses(processor) else _BASE
    return form.format(audio="", instruction=instruction or PROMPTS[language])


def make_batch(rows: Sequence[Row], pad: int) -> Batch:
    """Rows of one batch; rows of the same utterance share its features."""
    longest = max(len(row.prompt) + len(row.target) for row in rows)
    ids = torch.full((len(rows), longest), pad)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    predicts = torch.zeros((len(rows), longest - 1), dtype=torch.bool)
    for i, row in enumerate(rows):
        length = len(row.prompt) + len(row.target)
        ids[i, :length] = torch.tensor(row.prompt + row.target)
        mask[i, :length] = 1
        predicts[i, len(row.prompt) - 1 : length - 1] = True
    return Batch(_speech_batch(rows), ids, mask, predicts)


def _speech_batch(rows: Sequence[Row]) -> SpeechBatch | None:
    speeches = list({id(row.speech): row.speech for row in rows if row.speech is not None}.values())
    if not speeches:
        return None
    index = {id(speech): i for i, speech in enumerate(speeches)}
    return SpeechBatch(
        features=torch.stack([speech.features for speech in speeches]),
        frames=torch.tensor([speech.frames for speech in speeches]),
        audio_tokens=torch.tensor([speech.audio_tokens for speech in speeches]),
        of_row=torch.tensor([index[id(row.speech)] for row in rows]),
    )


def by_length(rows: Sequence[Row], most_positions: int) -> list[list[int]]:
    """Indices of rows in batches of similar length, shorter ones first, each of at most so many positions with padding.

    Rows of one utterance stay together, however long.
    """
    groups: dict[int, list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(id(row.speech or row), []).append(i)

    def length(group: Sequence[int]) -> int:
        return max(len(rows[i].prompt) + len(rows[i].target) for i in group)

    found: list[list[int]] = []
    for group in sorted(groups.values(), key=length):
        # the group that comes last is the longest of its batch
        if found and (len(found[-1]) + len(group)) * length(group) <= most_positions:
            found[-1] += group
        else:
            found.append(list(group))
    return found


def batches(rows: Sequence[Row], size: int, pad: int) -> Iterator[Batch]:
    """Consecutive batches of at most `size` rows."""
    for start in range(0, len(rows), size):
        yield make_batch(rows[start : start + size], pad)


def encode_audio(model: PreTrainedModel, features: Tensor, frames: Tensor) -> Tensor:
    """Projected audio embeddings (utterances, longest, hidden): the model's own forward, without padding."""
    tower = audio_tower(model)
    states = convolved(tower, features, frames)
    keep = heard_mask(frames, states.shape[1])
    for layer in tower.layers:
        states = layer(states, keep)
    return projected(model, states)


def convolved(tower: Any, features: Tensor, frames: Tensor) -> Tensor:
    """What the encoder's layers read (utterances, states, width): a state for two frames, positions added.

    Features are cut a few frames behind the longest speech; the states of valid frames never see that far.
    """
    used = min(features.shape[2], (int(frames.max()) + 8 + 3) // 4 * 4)
    states = nn.functional.gelu(tower.conv1(features[:, :, :used]))
    states = nn.functional.gelu(tower.conv2(states)).permute(0, 2, 1)
    found: Tensor = states + tower.embed_positions(torch.arange(states.shape[1], device=states.device))
    return found


def heard_mask(frames: Tensor, length: int) -> Tensor:
    """Which of `length` states each state may attend to: those of speech (utterances, 1, length, length)."""
    heard = torch.arange(length, device=frames.device)[None] < ((frames - 1) // 2 + 1)[:, None]
    return heard[:, None, None, :].expand(-1, -1, length, -1)


def projected(model: PreTrainedModel, states: Tensor) -> Tensor:
    """Pool, norm and projector behind the encoder's layers (utterances, audio tokens, hidden)."""
    tower = audio_tower(model)
    pooled = tower.avg_pooler(states.permute(0, 2, 1)).permute(0, 2, 1)
    found: Tensor = model.model.multi_modal_projector(tower.layer_norm(pooled))
    return found


def embed(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Input embeddings (rows, length, hidden) with the audio, if any, in its place."""
    return _embed(model, batch, _heard(model, batch))


def _heard(model: PreTrainedModel, batch: Batch) -> list[Tensor]:
    """Projected audio (audio tokens, hidden) of each utterance of a batch."""
    if batch.speech is None:
        return []
    return spoken(encode_audio(model, batch.speech.features, batch.speech.frames), batch.speech)


def _embed(model: PreTrainedModel, batch: Batch, heard: Sequence[Tensor]) -> Tensor:
    embeds: Tensor = model.get_input_embeddings()(batch.ids)
    if batch.speech is None:
        return embeds
    return with_audio(embeds, batch.ids == model.config.audio_token_index, heard, batch.speech)


def spoken(audio: Tensor, speech: SpeechBatch) -> list[Tensor]:
    """Of projected audio (utterances, longest, hidden) that of each utterance (audio tokens, hidden), unpadded."""
    return [states[: int(tokens)] for states, tokens in zip(audio, speech.audio_tokens, strict=True)]


def with_audio(embeds: Tensor, places: Tensor, heard: Sequence[Tensor], speech: SpeechBatch) -> Tensor:
    """Embeddings (rows, length, hidden) with the audio each row heard at its `places` (rows, length)."""
    pieces = [heard[i] for i in speech.of_row.tolist()]
    return embeds.masked_scatter(places[..., None], torch.cat(pieces).to(embeds.dtype))


@dataclass(frozen=True)
class Outputs:
    """What a model makes of a batch of rows: row after row, and for the audio utterance after utterance.

    `audio` (audio tokens, hidden) is the projected audio or None, `hidden` (predicted tokens, hidden) the last states
    the target tokens are predicted from.
    """

    audio: Tensor | None
    hidden: Tensor
    logits: Tensor


@in_precision
def outputs(model: PreTrainedModel, batch: Batch) -> Outputs:
    """Teacher-forced outputs for the target tokens, in float32."""
    heard = _heard(model, batch)
    states = decoder(model)(
        inputs_embeds=_embed(model, batch, heard), attention_mask=batch.mask, use_cache=False
    ).last_hidden_state
    hidden: Tensor = states[:, :-1][batch.predicts]
    audio = torch.cat(heard).float() if heard else None
    return Outputs(audio, hidden.float(), model.lm_head(hidden).float())


def target_logits(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Teacher-forced logits of the target tokens (predicted tokens, vocabulary)."""
    return outputs(model, batch).logits
