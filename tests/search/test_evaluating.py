"""Models and files of hypotheses scored from the command line, and held against each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sacrebleu

import launch
from corpora.roles import open_corpus
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
    assert any(text.startswith("segments|1 lines for 6 references, all talks at once|mweralign") for text in found["signatures"])


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
    ],
)
def test_mistakes_are_one_line(words: list[str], line: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.main(["evaluate", *words, "--data", "data"]) == 2
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1
