"""Utterances made of pieces of others: where they come from, and what is healed on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compress.facts import BankFolder
from compress.shelf import Shelf
from corpora.recombine import recombined
from corpora.roles import BUNDLED, Example, open_corpus
from models.loading import Source
from search import workbench as workbench_module
from search.workbench import counted, make_workbench, with_recombined
from tests.tiny import load_tiny

LANGUAGES = ("de", "zh")


def stretches(made: tuple[str, ...], originals: list[tuple[str, ...]]) -> int:
    """The fewest pieces of originals that an utterance can be cut into; 99 where it cannot."""
    if not made:
        return 0
    fewest = 99
    for length in range(len(made), 0, -1):
        piece = made[:length]
        if any(piece == one[i : i + length] for one in originals for i in range(len(one))):
            fewest = min(fewest, 1 + stretches(made[length:], originals))
            break  # the longest stretch first is the fewest
    return fewest


@given(
    st.lists(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=9), min_size=1, max_size=5), st.integers(0, 99)
)
def test_what_is_recombined_are_two_or_three_stretches_of_what_there_is(words: list[list[str]], seed: int) -> None:
    originals = [tuple(one) for one in words]
    texts = [" ".join(one) for one in words]
    sounds = [np.array([ord(word) for word in one], dtype=np.float32) for one in words]
    made = recombined(texts, 5, seed)
    assert made == recombined(texts, 5, seed)
    for text, sound in zip(made, recombined(sounds, 5, seed), strict=True):
        assert isinstance(text, str)
        assert 1 <= stretches(tuple(text.split()), originals) <= 3
        assert [ord(word) for word in text.split()] == list(sound)


def test_nothing_is_made_of_nothing() -> None:
    assert recombined([], 4, 0) == []
    assert recombined(["a b c"], 0, 0) == []


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return load_tiny(tmp_path_factory.mktemp("tiny"))


def test_healing_hears_more_and_the_targets_are_the_sources_translations(
    source: Source, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Utterance 2 has no German and 5 a Chinese one without end: both are left out."""
    corpus = open_corpus(BUNDLED)
    for role, count in (("calibrate", 4), ("proxy", 2), ("select", 2)):
        corpus.opened[role] = corpus.examples(role)[:count]
    source = counted(source, corpus, LANGUAGES)
    folder = BankFolder(tmp_path, Shelf())
    workbench = make_workbench(source, corpus, LANGUAGES, folder)
    made = recombined([example.utterance for example in corpus.examples("calibrate")], 8, 3)

    def translated(model: object, _: object, examples: list[Example], code: str, **__: object) -> list[str]:
        assert model is source.model
        for example, utterance in zip(examples, made, strict=True):
            assert np.array_equal(example.utterance, utterance)
        odd = {("de", 2): "", ("zh", 5): "ja " * 300}
        return [odd.get((code, i), f"{code} {i}") for i in range(len(examples))]

    monkeypatch.setattr(workbench_module, "translate", translated)
    more = with_recombined(workbench, corpus, LANGUAGES, 2, seed=3)
    old, new = workbench.bank.curriculum.lessons, more.bank.curriculum.lessons
    assert list(new[: len(old)]) == list(old)
    tokenizer = source.processor.tokenizer
    found = [tokenizer.decode(one.row.target, skip_special_tokens=True) for one in new[len(old) :]]
    assert found == [f"{code} {i}" for i in range(8) if i not in (2, 5) for code in LANGUAGES]
    assert more.proxy is workbench.proxy

    def refused(*_: object, **__: object) -> list[str]:
        raise AssertionError("the translations are in the bank")

    monkeypatch.setattr(workbench_module, "translate", refused)
    again = with_recombined(make_workbench(source, corpus, LANGUAGES, folder), corpus, LANGUAGES, 2, seed=3)
    for one, other in zip(more.bank.curriculum.lessons, again.bank.curriculum.lessons, strict=True):
        assert one.row.target == other.row.target
        assert torch.equal(one.teacher.logs, other.teacher.logs)
