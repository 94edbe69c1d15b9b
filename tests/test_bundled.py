"""The bundled model is a genuine Qwen2-Audio that translates, and our way of running it is transformers' own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from corpora.roles import BUNDLED as CORPUS
from corpora.roles import open_corpus
from models.inputs import PROMPTS
from models.loading import Source, load_source, read_layout
from models.reference import BUNDLED
from scoring.metrics import score
from scoring.translate import translate
from space.bins import bin_range

LANGUAGES = ("de", "zh")


@pytest.fixture(scope="module")
def source() -> Source:
    return load_source(BUNDLED)


def test_it_is_a_thousandth_of_the_original(source: Source) -> None:
    assert source.layout.parameters == sum(p.numel() for p in source.model.parameters()) == 8_397_056
    assert bin_range(3, source.layout.source_bytes).bound_bytes == 999_996


def test_numbers_a_config_leaves_out_are_transformers_defaults(tmp_path: Path) -> None:
    # The hub's config of the 7B model names only what differs from the defaults of transformers.
    config = {
        "model_type": "qwen2_audio",
        "audio_config": {"model_type": "qwen2_audio_encoder", "num_mel_bins": 128, "max_source_positions": 1500},
        "text_config": {"model_type": "qwen2", "vocab_size": 156032, "intermediate_size": 11008},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_layout(tmp_path).parameters == 8_397_094_912


@pytest.mark.parametrize("language", LANGUAGES)
def test_it_translates_speech(source: Source, language: str) -> None:
    examples = open_corpus(CORPUS).examples("select")[::2]
    hypotheses = translate(source.model, source.processor, examples, language)
    assert score(hypotheses, [x.references[language] for x in examples], language).bleu >= 75


@pytest.mark.parametrize("language", LANGUAGES)
def test_translations_are_those_of_transformers_generate(source: Source, language: str) -> None:
    examples = open_corpus(CORPUS).examples("select")[:4]
    text = f"<|audio_bos|><|AUDIO|><|audio_eos|>{PROMPTS[language]}"
    stock = []
    for example in examples:
        inputs = source.processor(text=text, audio=[example.utterance], sampling_rate=16_000, return_tensors="pt")
        with torch.no_grad():
            out = source.model.generate(**inputs, max_new_tokens=60, do_sample=False)
        stock.append(source.processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip())
    assert translate(source.model, source.processor, examples, language, batch_size=1) == stock
    assert translate(source.model, source.processor, examples, language, batch_size=4) == stock
