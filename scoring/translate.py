"""Greedy translation in batches: length-sorted, left-padded, the same output whatever the batch size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import GenerationConfig, Qwen2AudioForConditionalGeneration

from corpora.roles import Example
from models.inputs import Batch, Row, embed, featurize, make_batch, make_row

MAX_NEW_TOKENS = 256
# Decoding as it stands in signatures: a token for each audio token (40 ms of speech) and 16 more are plenty.
DECODING = f"greedy, at most audio tokens + 16 and {MAX_NEW_TOKENS} tokens"


@torch.inference_mode()
def translate(
    model: Qwen2AudioForConditionalGeneration,
    processor: Any,
    examples: Sequence[Example],
    language: str,
    *,
    batch_size: int = 32,
    progress: Callable[[int], None] = lambda _done: None,
) -> list[str]:
    """Translations in the order of the examples; `progress` is told how many more are done."""
    rows = [make_row(processor, featurize(processor, example.audio), language, "") for example in examples]
    order = sorted(range(len(rows)), key=lambda i: rows[i].speech.frames)
    texts = [""] * len(rows)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        for index, text in zip(chosen, _generate(model, processor, [rows[i] for i in chosen]), strict=True):
            texts[index] = text
        progress(len(chosen))
    return texts


def _generate(model: Qwen2AudioForConditionalGeneration, processor: Any, rows: Sequence[Row]) -> list[str]:
    """Every row stops where it would stop alone, so its text does not depend on its neighbours."""
    embeds, mask = _left_padded(model, make_batch(rows, processor.tokenizer.pad_token_id))
    limits = [min(MAX_NEW_TOKENS, row.speech.audio_tokens + 16) for row in rows]
    out = model.generate(
        inputs_embeds=embeds, attention_mask=mask, generation_config=_greedy(model, processor, max(limits))
    )
    return [
        processor.tokenizer.decode(ids[:limit], skip_special_tokens=True).strip()
        for ids, limit in zip(out, limits, strict=True)
    ]


def _greedy(model: Qwen2AudioForConditionalGeneration, processor: Any, limit: int) -> GenerationConfig:
    """Plain greedy decoding with the model's end tokens, whatever penalties its generation config asks for."""
    end = model.generation_config.eos_token_id
    return GenerationConfig(
        max_new_tokens=limit,
        do_sample=False,
        num_beams=1,
        eos_token_id=processor.tokenizer.eos_token_id if end is None else end,
        pad_token_id=processor.tokenizer.pad_token_id,
    )


def _left_padded(model: Qwen2AudioForConditionalGeneration, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompt embeddings and mask with the padding moved to the left; the target, one end token, is left out."""
    embeds = embed(model, batch)
    lengths = batch.mask.sum(1) - 1
    longest = int(lengths.max())
    padded = embeds.new_zeros((len(embeds), longest, embeds.shape[2]))
    mask = torch.zeros((len(embeds), longest), dtype=torch.long)
    for row, length in enumerate(lengths.tolist()):
        padded[row, longest - length :] = embeds[row, :length]
        mask[row, longest - length :] = 1
    return padded, mask
