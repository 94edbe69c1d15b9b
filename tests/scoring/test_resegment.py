"""Joined hypotheses are cut where references are: no word lost, case kept, whatever the tool is given."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scoring.resegment import VARIABLE, as_many, resegment, resegmenter
from space.errors import UserError

GERMAN = [
    "Hallo, ich bin Elena und stelle unsere Arbeit vor.",
    "Wir verwenden das Modell BERT in unserer Studie.",
    "Vielen Dank!",
    "Die Ergebnisse sind besser als erwartet.",
]
CHINESE = ["大家好,我是Elena,今天介绍我们的工作。", "我们使用BERT模型和2种方法。", "谢谢大家!", "结果比预期更好。"]


@pytest.mark.parametrize(("language", "texts"), [("de", GERMAN), ("zh", CHINESE)])
def test_joined_references_come_back_whole(language: str, texts: list[str]) -> None:
    joined = (" " if language == "de" else "").join(texts)
    assert resegment([joined], texts, language) == texts
    halves = [joined[:30].strip(), joined[30:].strip()]
    if language == "zh":
        assert resegment(halves, texts, language) == texts


def test_case_is_the_hypothesis_own() -> None:
    shouted = [text.upper() for text in GERMAN]
    assert resegment([" ".join(shouted)], GERMAN, "de") == shouted


def test_noise_stays_where_it_belongs() -> None:
    said = "Hallo ich bin Elena und zeige unsere Arbeit. Wir nutzen BERT in dieser Studie. Vielen Dank! Es ist besser."
    found = resegment([said], GERMAN, "de")
    assert found == [
        "Hallo ich bin Elena und zeige unsere Arbeit.",
        "Wir nutzen BERT in dieser Studie.",
        "Vielen Dank!",
        "Es ist besser.",
    ]


@pytest.mark.parametrize("hypotheses", [[], [""], ["", " "], ["<>", "#"]])
def test_of_nothing_there_are_empty_lines(hypotheses: list[str]) -> None:
    assert resegment(hypotheses, GERMAN, "de") == [""] * 4


def test_separators_and_entities_are_no_matter() -> None:
    said = ["Hallo, ich bin Elena ### und stelle\tunsere Arbeit vor.", "Wir &amp; <b>BERT</b>", "", "Vielen Dank!"]
    found = resegment(said, [*GERMAN[:2], "#", GERMAN[2]], "de")
    assert " ".join(filter(None, found)) == (
        "Hallo, ich bin Elena und stelle unsere Arbeit vor. Wir & bBERT/b Vielen Dank!"
    )
    assert found[0] == GERMAN[0]
    assert found[2] == ""
    assert found[3] == GERMAN[2]


def test_where_references_say_nothing_the_last_has_all() -> None:
    assert resegment(["Ja.", "Nein."], ["#", "<"], "de") == ["", "Ja. Nein."]


WORDS = st.text(st.sampled_from("ab ÄZ#<.\t\n\u2028你好"), max_size=12)


@settings(max_examples=15)
@given(st.lists(WORDS, max_size=4), st.lists(WORDS, min_size=1, max_size=4), st.sampled_from(["de", "zh"]))
def test_no_word_is_lost_and_counts_are_right(said: list[str], wanted: list[str], language: str) -> None:
    found = resegment(said, wanted, language)
    assert len(found) == len(wanted)
    kept = "".join("".join(said).split())
    for mark in "#<>":
        kept = kept.replace(mark, "")
    assert "".join("".join(found).split()) == kept


def test_as_many_lines_are_scored_as_they_are() -> None:
    assert as_many(["a"], ["b"])
    assert not as_many(["a"], ["b", "c"])


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_the_original_binary_is_called_its_own_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes -mref and -hypfile and leaves __segments where it stands."""
    text = 'test "$1 $3" = "-mref -hypfile" && tr " " "\\n" < "$4" > __segments'
    monkeypatch.setenv(VARIABLE, str(script(tmp_path / "mwerSegmenter", text)))
    assert resegment(["Eins Zwei", "Drei"], ["eins", "zwei", "drei"], "de") == ["Eins", "Zwei", "Drei"]
    assert resegmenter().signature == "mwerSegmenter"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("echo no memory >&2; exit 3", "ended with status 3: no memory; name another by"),
        ("exit 0", "ended with status 0: no word of why"),
        ('head -c 4 "$4" > __segments', "gave 1 words in 1 lines for 3 words and 3 references"),
    ],
)
def test_a_tool_that_fails_or_loses_words_is_one_line(
    text: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(script(tmp_path / "mwerSegmenter", text)))
    with pytest.raises(UserError, match=words) as raised:
        resegment(["Eins Zwei", "Drei"], ["eins", "zwei", "drei"], "de")
    assert "\n" not in str(raised.value)


def test_a_missing_tool_names_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, os.devnull)
    with pytest.raises(UserError, match="pip install mweralign, or name mwerSegmenter's binary by"):
        resegment(["a"], ["a"], "de")
    monkeypatch.delenv(VARIABLE)
    assert resegmenter().signature.startswith("mweralign 1.4")
