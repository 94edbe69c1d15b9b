"""Greedy or beam translation in batches: length-sorted, left-padded, the same output whatever the batch size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel

from corpora.roles import Example
from models.devices import HOST, device_of, in_precision
from models.inputs import Batch, Row, converses, embed, make_batch, make_row, read_utterance
from models.loading import pad_token
from models.room import Room
from scoring.kept import KeptTexts
from scoring.tidy import PREAMBLES, QUOTES, tidied

MAX_NEW_TOKENS = 256
_ROOM = Room()
# Decoding as it stands in signatures: a token for each audio token (40 ms of speech) and 16 more are plenty, and so
# are twice the tokens of a text and its instruction.
DECODING = f"greedy, at most audio tokens + 16 (text: twice the prompt) and {MAX_NEW_TOKENS} tokens"


@torch.inference_mode()
def translate(
    model: PreTrainedModel,
    processor: Any,
    examples: Sequence[Example],
    language: str,
    *,
    batch_size: int = 32,
    beams: int = 1,
    progress: Callable[[int], None] = lambda _done: None,
    kept: KeptTexts | None = None,
    taken_off: Counter[str] | None = None,
) -> list[str]:
    """Translations in the order of the examples, greedy or by so many `beams`; `progress` is told how many more are
    done. What Instruct models put around a translation is taken off (scoring/tidy.py), and from how many texts counted
    in `taken_off`. What is `kept`, by language and place, is not translated again, and new texts are.
    """
    utterances = [read_utterance(processor, example.utterance) for example in examples]
    rows = [
        make_row(processor, utterance, language, "", example.prompt)
        for utterance, example in zip(utterances, examples, strict=True)
    ]
    known = kept.texts if kept else {}
    texts = [known.get(f"{language} {place}", "") for place in range(len(rows))]
    order = sorted(
        (place for place in range(len(rows)) if f"{language} {place}" not in known), key=lambda i: len(rows[i].prompt)
    )
    progress(len(rows) - len(order))
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        for part, found in _ROOM.each(
            rows, batch, lambda part: _generate(model, processor, [rows[i] for i in part], beams)
        ):
            for index, text in zip(part, found, strict=True):
                texts[index] = text
            if kept:
                kept.keep([f"{language} {index}" for index in part], found)
            progress(len(part))
    if not converses(processor):
        return texts
    tidy = tidied(texts, language)
    if taken_off is not None:
        taken_off.update({PREAMBLES: tidy.preambles, QUOTES: tidy.quotes})
    return tidy.texts


def decoding(beams: int) -> str:
    """How translations are made, for signatures."""
    return DECODING if beams == 1 else f"{beams} beams, at most {MAX_NEW_TOKENS} tokens"


@in_precision
def _generate(model: PreTrainedModel, processor: Any, rows: Sequence[Row], beams: int) -> list[str]:
    """Every row stops where it would stop alone, so its text does not depend on its neighbours."""
    embeds, mask = _left_padded(model, make_batch(rows, pad_token(model)).to(device_of(model)))
    # beams of a row that is cut would depend on where, so all have the same room
    limits = [most_tokens(row) if beams == 1 else MAX_NEW_TOKENS for row in rows]
    out = model.generate(
        inputs_embeds=embeds, attention_mask=mask, generation_config=_plain(model, processor, max(limits), beams)
    )
    return [
        processor.tokenizer.decode(ids[:limit], skip_special_tokens=True).strip()
        for ids, limit in zip(out.to(HOST), limits, strict=True)
    ]


def most_tokens(row: Row) -> int:
    """How long the translation of a row can become."""
    return min(MAX_NEW_TOKENS, row.speech.audio_tokens + 16 if row.speech else 2 * len(row.prompt))


def _plain(model: PreTrainedModel, processor: Any, limit: int, beams: int) -> GenerationConfig:
    """Plain greedy or beam decoding with the model's end tokens, whatever penalties its generation config asks for."""
    end = model.generation_config.eos_token_id
    return GenerationConfig(
        max_new_tokens=limit,
        do_sample=False,
        num_beams=beams,
        eos_token_id=processor.tokenizer.eos_token_id if end is None else end,
        pad_token_id=pad_token(model),
    )


def _left_padded(model: PreTrainedModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompt embeddings and mask with the padding moved to the left; the target, one end token, is left out."""
    embeds = embed(model, batch)
    lengths = batch.mask.sum(1) - 1
    longest = int(lengths.max())
    padded = embeds.new_zeros((len(embeds), longest, embeds.shape[2]))
    mask = batch.mask.new_zeros((len(embeds), longest))
    for row, length in enumerate(lengths.tolist()):
        padded[row, longest - length :] = embeds[row, :length]
        mask[row, longest - length :] = 1
    return padded, mask
