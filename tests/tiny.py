"""A tiny random Qwen2-Audio with a tokenizer of its own, made in seconds; for tests that need no trained model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from miniature.anatomy import make_model, make_processor, train_tokenizer
from models.inputs import PROMPTS, Row, featurize, make_row
from models.qwen2_audio import Source, load_source

TARGETS = {"de": "Das Modell ist klein.", "zh": "模型很小。"}


def write_tiny(folder: Path) -> Path:
    """Writes the model's folder: the miniature's tokenizer form, random weights from a fixed seed."""
    texts = [*TARGETS.values(), *PROMPTS.values()] * 50
    tokenizer = train_tokenizer(texts)
    torch.manual_seed(1)
    model = make_model(tokenizer, layers=3, vocabulary=len(tokenizer))
    model.to(torch.bfloat16).save_pretrained(folder)
    make_processor(tokenizer).save_pretrained(folder)
    return folder


def load_tiny(folder: Path) -> Source:
    return load_source(write_tiny(folder))


def tiny_rows(source: Source, count: int = 3) -> list[Row]:
    """Both directions of `count` utterances of noise, 0.5 s and longer."""
    rng = np.random.default_rng(0)
    rows = []
    for index in range(count):
        audio = rng.standard_normal(8000 + 3000 * index).astype(np.float32) * 0.1
        speech = featurize(source.processor, audio)
        rows += [make_row(source.processor, speech, language, text) for language, text in TARGETS.items()]
    return rows
