"""Tiny random models with tokenizers of their own, made in seconds; for tests that need no trained model."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from compress.heal import Lesson, make_lessons
from compress.importance import measure
from compress.pipeline import Bank
from compress.prune import removal_orders
from compress.vocabulary import Curriculum
from corpora.roles import BUNDLED, ROLES
from miniature.anatomy import make_model, make_processor, train_tokenizer
from models.inputs import PROMPTS, TEXT_PROMPTS, Batch, Row, featurize, make_batch, make_row
from models.loading import Source, load_source
from models.vocabulary import with_vocabulary
from space.choices import choices, plan_of
from space.plan import NO_HEAL, Plan, uniform_plan
from space.rates import LADDERS, WHOLE

TARGETS = {"de": "Das Modell ist klein.", "zh": "模型很小。"}
_TEXTS = [*TARGETS.values(), *PROMPTS.values(), *TEXT_PROMPTS.values()] * 50
_SHAPE = {
    "hidden_size": 96,
    "intermediate_size": 208,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "max_position_embeddings": 512,
}


def write_tiny(folder: Path, *, narrower: int = 2) -> Path:
    """A Qwen2-Audio: the miniature's tokenizer form, half its widths, random weights from a fixed seed."""
    tokenizer = train_tokenizer(_TEXTS)
    torch.manual_seed(1)
    model = make_model(tokenizer, layers=3, vocabulary=len(tokenizer), narrower=narrower)
    model.to(torch.bfloat16).save_pretrained(folder)
    make_processor(tokenizer).save_pretrained(folder)
    return folder


def write_tiny_qwen2(folder: Path) -> Path:
    """A decoder-only Qwen2 with an embedding and an lm_head of its own."""
    return _write_reader(folder, lambda ids: Qwen2ForCausalLM(Qwen2Config(**_SHAPE, **ids, tie_word_embeddings=False)))


def write_tiny_llama(folder: Path) -> Path:
    """A decoder-only Llama whose lm_head is its embedding, with biases in its attention."""
    return _write_reader(
        folder,
        lambda ids: LlamaForCausalLM(LlamaConfig(**_SHAPE, **ids, tie_word_embeddings=True, attention_bias=True)),
    )


def _write_reader(folder: Path, make: Callable[[dict[str, int]], torch.nn.Module]) -> Path:
    tokenizer = train_tokenizer(_TEXTS)
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    torch.manual_seed(1)
    model = make({"vocab_size": len(tokenizer), "bos_token_id": end, "eos_token_id": end, "pad_token_id": end})
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_wide(folder: Path) -> Path:
    """As `write_tiny`, as wide as the miniature."""
    return write_tiny(folder, narrower=1)


TINY = {"qwen2_audio": write_tiny, "qwen2": write_tiny_qwen2, "llama": write_tiny_llama}


def load_tiny(folder: Path, kind: str = "qwen2_audio") -> Source:
    """A tiny source, of a kind in TINY or "wide", whose vocabulary was counted on the targets."""
    source = load_source((TINY | {"wide": write_wide})[kind](folder))
    tokenizer = source.processor.tokenizer
    ids = [token for text in TARGETS.values() for token in tokenizer(text).input_ids]
    vocabulary = source.vocabulary.counting(ids)
    return replace(source, vocabulary=vocabulary, layout=with_vocabulary(source.layout, vocabulary))


def write_roles(folder: Path, counts: Sequence[int], columns: Sequence[str] | None = None) -> Path:
    """The shortest utterances of each of the bundled corpus's roles: enough for the machinery."""
    for role, count in zip(ROLES, counts, strict=True):
        table = pq.read_table(BUNDLED / f"{role}.parquet")
        lengths = [len(speech["bytes"]) for speech in table["audio"].to_pylist()]
        shortest = sorted(range(len(lengths)), key=lambda i: lengths[i])[:count]
        pq.write_table(table.take(sorted(shortest)).select(columns or table.column_names), folder / f"{role}.parquet")
    return folder


def make_bank(source: Source, batches: Iterable[Batch], lessons: Sequence[Lesson]) -> Bank:
    """A bank measured on a few batches."""
    measured = measure(source.model, uniform_plan(source.layout, WHOLE), batches)
    orders = removal_orders(source, measured.hessians)
    return Bank(measured.hessians, orders, measured.behind, Curriculum(lessons, source.vocabulary))


def tiny_bank(source: Source) -> Bank:
    """A bank measured on the tiny rows, with their lessons."""
    rows = tiny_rows(source)
    lessons = make_lessons(source.model, rows)
    return make_bank(source, [make_batch(rows, source.model.generation_config.pad_token_id)], lessons)


def tiny_rows(source: Source, count: int = 3) -> list[Row]:
    """Both directions of `count` utterances: noise, 0.5 s and longer, or for a model that reads, words."""
    rng = np.random.default_rng(0)
    rows = []
    for index in range(count):
        audio = rng.standard_normal(8000 + 3000 * index).astype(np.float32) * 0.1
        heard = source.layout.encoder is not None
        utterance = featurize(source.processor, audio) if heard else "a small model " * (index + 1)
        rows += [make_row(source.processor, utterance, language, text) for language, text in TARGETS.items()]
    return rows


def random_plans(source: Source, count: int) -> list[Plan]:
    """Plans at random in which some sublayers stay as the plan before had them."""
    rng, found = random.Random(0), []
    layout = replace(source.layout, rates=(*LADDERS["coded"][:6:2], *LADDERS["packed"][::3]))
    chosen = {name: rng.choice(options) for name, options in choices(layout).items()}
    for _ in range(count):
        changed = {name: rng.choice(options) for name, options in choices(layout).items() if rng.random() < 0.5}
        chosen = {**chosen, **changed}
        plan = plan_of(layout, chosen, NO_HEAL)
        if all(any(layer.attention.kept or layer.ffn.kept for layer in plan.layers(t)) for t in layout.towers):
            found.append(plan)
    return found
