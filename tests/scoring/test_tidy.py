"""What Instruct models put around translations goes, and nothing that belongs to them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoring.tidy import tidied


def language_of(text: str) -> str:
    return "zh" if any("\u4e00" <= one <= "\u9fff" for one in text) else "de"


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("The German translation is: Das Modell ist klein.", "Das Modell ist klein."),
        ("Sure, here is the translation into German:\n\n„Das Modell ist klein.“", "Das Modell ist klein."),
        ('Here\'s the Chinese translation: "模型很小。"', "模型很小。"),
        ("这段话的中文翻译是:“模型很小。”", "模型很小。"),
        ("翻译:模型很小。", "模型很小。"),
        ("Die Übersetzung lautet: Ja.", "Ja."),
        ("Translation: Ja.", "Ja."),
        ("**Translation:** Ja.", "Ja."),
        ("**Translation**: **Ja.**", "**Ja.**"),
        ("Translation: **Ja.**", "**Ja.**"),
        ("German: Ja.", "Ja."),
        ("The translation is 'Ja.'", "Ja."),
        ("The speech in German is: 'Ja.'", "Ja."),
        ("The translation of 'BLEU: a method' is: Ja.", "Ja."),
        ("The translation of that sentence into German is: Ja.", "Ja."),
        ("Übersetzung ins Deutsche: Ja.", "Ja."),
        ("Auf Deutsch: Ja.", "Ja."),
        ("„Ja.”", "Ja."),
        ("这句话翻译成中文是：模型很小。", "模型很小。"),
        ("这段语音的中文翻译是：“模型很小。”", "模型很小。"),
        ("'Ja.'", "Ja."),
    ],
)
def test_preambles_and_quotes_go(said: str, kept: str) -> None:
    assert tidied([said], language_of(said)).texts == [kept]


@pytest.mark.parametrize(
    "said",
    [
        "Das Modell ist klein.",
        "Die Übersetzung ist besser als erwartet.",
        "Translation is hard: we show why.",
        "The translation of 'don't stop: a song' is hard.",
        "The translation is 'good', they say.",
        "Das Deutsche: ein Überblick.",
        "Mandarin: 1,1 Milliarden Sprecher.",
        "In Mandarin: eine Milliarde.",
        "Übersetzung: ein schweres Problem.",
        "„A“ und “B”",
        "„Nein“, sagte “er”",
        "‚Nein‘, sagte Hans’",
        "语音翻译：一项新任务。",
        "的翻译：困难。",
        "话说翻译：一个难题。",
        "„Aufmerksamkeit“ heißt „Attention“",
        '"Ja" oder "Nein"',
        "翻译是一个难题。",
        "The translation is:",
        "",
    ],
)
def test_what_belongs_to_a_translation_stays(said: str) -> None:
    assert tidied([said], language_of(said)).texts == [said]


def test_what_was_taken_off_is_counted() -> None:
    found = tidied(["Translation: „Ja.“", '"Nein."', "Vielleicht."], "de")
    assert found.texts == ["Ja.", "Nein.", "Vielleicht."]
    assert (found.preambles, found.quotes) == (1, 2)


@given(st.text(), st.sampled_from(("de", "zh")))
def test_texts_are_of_one_line_and_part_of_what_was_said(said: str, language: str) -> None:
    (found,) = tidied([said], language).texts
    assert found in " ".join(said.split())
