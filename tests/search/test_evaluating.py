"""Models and files of hypotheses scored from the command line, and held against each other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import sacrebleu

import launch
from corpora.roles import open_corpus
from models.inputs import Row
from models.loading import load_source
from scoring import translate as translating
from scoring.kept import KeptTexts
from search.exam import Exam, examined
from tests import comet as standing
from tests.tiny import write_roles, write_tiny


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, a model, COMET's stand-in, and hypotheses of the report role: its references, some worse, some fewer."""
    folder = tmp_path_factory.mktemp("evaluating")
    for name in ("data", "model"):
        (folder / name).mkdir()
    write_roles(folder / "data", (2, 2, 2, 6))
    write_tiny(folder / "model")
    standing.stand_in(folder / "comet")
    german = references(folder, "de")
    write(folder / "good.en-de.txt", german)
    write(folder / "worse.en-de.txt", [" ".join(text.split()[1:]) or "Ja" for text in german])
    write(folder / "joined.en-zh.txt", ["".join(references(folder, "zh"))])
    return folder


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    return place


def references(folder: Path, code: str) -> list[str]:
    return [example.references[code] for example in open_corpus(folder / "data").examples("report")]


def write(path: Path, lines: list[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def evaluated(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert launch.main(["evaluate", *words, "--data", "data", "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_file_is_scored_as_sacrebleu_scores_it(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = evaluated(capsys, "worse.en-de.txt")
    lines = (here / "worse.en-de.txt").read_text(encoding="utf-8").splitlines()
    bleu = sacrebleu.corpus_bleu(lines, [references(here, "de")]).score
    assert found["scores"]["en-de"]["bleu"] == pytest.approx(bleu, abs=0.005)
    assert list(found["scores"]) == ["en-de"]
    assert "segments|as many lines as references, not re-segmented" in found["scores"]["en-de"]["signatures"]


def test_joined_lines_are_cut_where_references_are(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = evaluated(capsys, "joined.en-zh.txt")["scores"]["en-zh"]
    assert found["chrf"] == 100
    assert any(
        text.startswith("segments|1 lines for 6 references, all talks at once|mweralign")
        for text in found["signatures"]
    )


def test_systems_are_held_against_each_other(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("good.en-de.txt", "worse.en-de.txt", "--langs", "en-de", "--comet", "--comet-env", "comet")
    found = evaluated(capsys, *words)
    assert found["systems"][0]["scores"]["en-de"]["comet"] == 100
    (row,) = found["leads"]
    assert (row["over"], set(row["leads"])) == ("worse.en-de.txt", {"BLEU", "chrF2", "chrF2++", "COMET"})
    assert all(lead["value"] > 0 for lead in row["leads"].values())
    assert launch.main(["evaluate", *words, "--data", "data"]) == 0
    assert "leads of good.en-de.txt" in capsys.readouterr().out


def test_figures_say_how_they_were_measured(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = evaluated(capsys, "model", "--figures", "--langs", "en-de")["figures"]
    assert set(found) == {
        "parameters",
        "FLOPs an utterance",
        "seconds an utterance",
        "peak memory bytes",
        "real-time factor",
    }
    assert all(one["value"] > 0 and one["method"] for one in found.values())
    # a matrix product takes two operations an entry and position: more than one position, fewer than a thousand
    assert 2 < found["FLOPs an utterance"]["value"] / found["parameters"]["value"] < 2000


def test_beams_change_no_text_with_the_batch(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, four = (
        evaluated(capsys, "model", "--beams", "2", "--batch-size", size, "--langs", "en-de") for size in ("1", "4")
    )
    assert one["scores"] == four["scores"]
    assert "decoding|2 beams, at most 256 tokens" in one["scores"]["en-de"]["signatures"]


def test_comet_needs_what_is_said(here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_roles(tmp_path, (2, 2, 2, 2), ["id", "talk", "audio", "de"])
    words = ["evaluate", "model", "--langs", "en-de", "--data", str(tmp_path), "--comet", "--comet-env", "comet"]
    assert launch.main(words) == 2
    assert "has no English text, which COMET reads; add column en" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["nothing"], "nothing: no such folder or file; give the folder of a model, or a file of hypotheses"),
        (["data/report.parquet"], "of which direction? give --langs en-de, or name it so"),
        (["data/report.parquet", "--langs", "en-de"], "is not UTF-8"),
        (["good.en-de.txt", "--figures"], "--figures: are of models"),
        (["good.en-de.txt", "--langs", "en-fr"], "--langs en-fr: choose from en-de, en-zh"),
        (["model", "--beams", "0"], "--beams 0"),
        (["model", "--batch-size", "0"], "--batch-size 0"),
        (["model", "--kept", "good.en-de.txt"], "--kept good.en-de.txt: is a file; give a folder"),
        (["model", "--segment-seconds", "6"], "gold segments are what they are; give --segments vad, too"),
        (["model", "--segments", "vad", "--segment-seconds", "0.5"], "--segment-seconds 0.5: from 1 to 30"),
        (["model", "--segments", "vad", "--segment-seconds", "nan"], "--segment-seconds nan: from 1 to 30"),
    ],
)
def test_mistakes_are_one_line(words: list[str], line: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.main(["evaluate", *words, "--data", "data"]) == 2
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1


def test_a_killed_evaluation_goes_on_where_it_was(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("model", "--langs", "en-de", "--batch-size", "2")
    whole = evaluated(capsys, *words)
    keep, generate = KeptTexts.keep, translating._generate
    kept: list[str] = []
    generated: list[Row] = []

    def killed(self: KeptTexts, names: Sequence[str], texts: Sequence[str]) -> None:
        keep(self, names, texts)
        kept.extend(names)
        if len(kept) == 4:
            raise KeyboardInterrupt

    def counted(model: Any, processor: Any, rows: Sequence[Row], beams: int) -> list[str]:
        generated.extend(rows)
        found: list[str] = generate(model, processor, rows, beams)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(KeptTexts, "keep", killed)
        assert launch.main(["evaluate", *words, "--data", "data"]) == 130
    capsys.readouterr()
    assert len(list(Path("studies/evaluations").iterdir())) == 1
    monkeypatch.setattr(translating, "_generate", counted)
    assert evaluated(capsys, *words) == whole
    assert len(generated) == 2
    assert not list(Path("studies/evaluations").iterdir())


def test_segments_are_as_short_as_asked(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("model", "--langs", "en-de", "--segments", "vad")
    for more, seconds in ((), "30"), (("--segment-seconds", "2.5"), "2.5"):
        (told,) = (
            text
            for text in evaluated(capsys, *words, *more)["scores"]["en-de"]["signatures"]
            if text.startswith("segments|")
        )
        assert f", at most {seconds} s and what the model hears at once|" in told


def test_what_is_taken_off_is_counted_and_said_whenever_scores_are_made(
    here: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said = cycle(["The translation is: 'Ja.'", "„Nein.“", "Ja, 'genau'."])
    monkeypatch.setattr(translating, "converses", lambda _processor: True)
    monkeypatch.setattr(translating, "_generate", lambda *given: [next(said) for _ in given[2]])
    corpus = open_corpus(here / "data", ["de"])
    exam = Exam(corpus, ("en-de",), corpus.fingerprint())
    source = load_source(here / "model")
    result = examined({"key": "mine"}, exam, "report", lambda: (source.model, source.processor), tmp_path)
    assert sorted(result["translations"]["en-de"]) == sorted(["Ja.", "Nein.", "Ja, 'genau'."] * 2)
    signatures = result["scores"]["en-de"]["signatures"]
    assert "taken off|preambles: 2, quotation marks: 4, texts: 6" in signatures
    del result["scores"]
    assert examined(result, exam, "report", _not_called, tmp_path)["scores"]["en-de"]["signatures"] == signatures


def _not_called() -> tuple[Any, Any]:
    raise AssertionError("translations are kept")
