"""From an archive that looks like ACL 60/60 to the submission: gold segments, whole talks, COMET, leaks."""

from __future__ import annotations

import json
import re
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import launch
from corpora.importing import resolve_data
from corpora.roles import DIRECTIONS, Corpus, open_corpus
from search.workbench import Workbench
from tests import comet as standing
from tests.acl6060 import write_acl6060, write_manifest
from tests.tiny import write_tiny

ADAPTED = {"method": "lora", "steps": 8, "best_step": 6, "role": "calibrate"}
SMALL = ("--trials", "3", "--heal-steps", "1", "--trial-heal-steps", "1", "--finalists", "2", "--recombined", "0")
SUBMIT = ("submit", "--user", "FBK", "--contact", "A. Person", "--email", "a@example.org", "--empty-as", ".")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an archive, a model adapted to it and COMET's stand-in, and a finished study of the archive."""
    folder = tmp_path_factory.mktemp("whole")
    write_acl6060(folder / "archive", utterances=2)
    (folder / "model").mkdir()
    write_tiny(folder / "model")
    standing.stand_in(folder / "comet")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        data = open_corpus(
            resolve_data("acl6060:archive", list(DIRECTIONS.values()), Path("studies/data"))
        ).fingerprint()
        (folder / "model" / "adapted.json").write_text(json.dumps({**ADAPTED, "data": data}))
        assert launch.main(search()) == 0
    return folder


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(place)
    yield place
    shutil.rmtree(place / "submission", ignore_errors=True)


def search(*more: str, data: str = "acl6060:archive") -> list[str]:
    return ["--bin", "2", "--model", "model", "--data", data, "--condition", "constrained", *SMALL, *more]


def summary_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "studies" / "bin2" / "summary.json").read_text())
    return found


def result_of(summary: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What is kept of the champion."""
    found: dict[str, Any] = json.loads((folder / summary["champion"]["path"]).with_name("result.json").read_text())
    return found


def test_a_constrained_study_says_what_it_is(here: Path) -> None:
    summary = summary_of(here)
    assert summary["condition"] == "constrained"
    assert summary["data"].startswith("studies/data/acl6060-")
    assert summary["source"]["adapted"] == "lora, 6 steps, on role calibrate of the same data"
    assert (summary["chosen_by"], summary["segments"], summary["utterances"]) == ("chrF", "gold", 4)
    result = result_of(summary, here)
    assert {direction: len(texts) for direction, texts in result["translations"].items()} == dict.fromkeys(
        DIRECTIONS, 4
    )
    assert "segments|gold segments, not re-segmented" in result["scores"]["en-de"]["signatures"]
    for row in summary["leads"]:
        assert set(row["leads"]) == {"BLEU", "chrF2", "chrF2++"}
        assert all({"value", "low", "high", "p", "p_randomised"} == set(lead) for lead in row["leads"].values())


def test_the_submission_has_the_tasks_names_and_lines(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.main([*SUBMIT, "--study", "bin2", "--institute", "Foundation", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    names = [f"FBK/IWSLT25.ModelCompressionTask.{direction}.FBK.Bin2.primary.txt" for direction in DIRECTIONS]
    result = result_of(summary_of(here), here)
    with tarfile.open(here / "submission" / "FBK.tar.gz", "r:gz") as archive:
        assert archive.getnames() == names
        for name, direction in zip(names, DIRECTIONS, strict=True):
            file = archive.extractfile(name)
            assert file is not None
            lines = file.read().decode("utf-8").split("\n")
            assert lines.pop() == ""
            # a random model says control characters, too
            texts = [
                " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", t).split()) for t in result["translations"][direction]
            ]
            assert [" ".join(line.split()) for line in lines] == [text or "." for text in texts]
    message = (here / "submission" / "message.txt").read_text()
    assert said["text"] == message
    assert (
        "Institute: Foundation\nContact Person: A. Person\nEmail: a@example.org\nData condition: Constrained" in message
    )
    assert f"Exact storage size: {result['bytes_on_disk']:,} bytes" in message
    assert f"Number of parameters: {result['parameters']:,}" in message
    assert "the source was adapted first: lora, 6 steps, on role calibrate of the same data" in message
    first = (here / "submission" / "FBK.tar.gz").read_bytes()
    shutil.rmtree(here / "submission")
    assert launch.main([*SUBMIT, "--study", "bin2"]) == 0
    assert (here / "submission" / "FBK.tar.gz").read_bytes() == first
    assert "FBK.Bin2.primary.txt" in capsys.readouterr().out


def test_a_message_can_have_what_translating_costs(here: Path) -> None:
    assert launch.main([*SUBMIT, "--study", "bin2", "--figures"]) == 0
    message = (here / "submission" / "message.txt").read_text()
    for figure in ("FLOPs an utterance: ", "seconds an utterance: ", "real-time factor: ", "peak memory bytes: "):
        assert figure in message


def test_a_contrastive_has_its_number_and_the_later_form_its_names(here: Path) -> None:
    summary = summary_of(here)
    others = {row["trial"] for row in [*summary["finalists"], *summary["baselines"]]} - {summary["champion"]["trial"]}
    words = [*SUBMIT, "--study", "bin2", "--contrastive", str(min(others)), "--form", "2025-server"]
    assert launch.main(words) == 0
    with tarfile.open(here / "submission" / "FBK.tar.gz", "r:gz") as archive:
        named = "FBK_IWSLT25_ModelCompression_{}_Bin2_constrained_{}.txt"
        kinds = ("contrastive1", "primary")
        assert archive.getnames() == [named.format(d, kind) for d in DIRECTIONS for kind in kinds]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--study", "bin4"], "--study bin4: studies/bin4/summary.json is not there; let the search finish"),
        (["--study", "bin2", "--study", "bin2"], "--study: name each study once"),
        (["--study", "bin2", "--primary", "999"], "bin2: trial 999 is no finalist; those are"),
        (["--study", "bin2", "--primary", "best"], "--primary best: names no trial of a --study; write it as 12"),
        (["--study", "bin2", "--user", "F/K"], "--user 'F/K': letters, digits, - and _ only"),
        (["--study", "bin2", "--empty-as", " "], "--empty-as ' ': one line of text"),
    ],
)
def test_mistakes_in_a_submission_are_one_line(
    more: list[str], words: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launch.main([*SUBMIT, *more]) == 2
    error = capsys.readouterr().err
    assert error.startswith("tightfit: ")
    assert words in error
    assert error.count("\n") == 1
    assert not (here / "submission").exists()


def test_a_finalist_that_is_not_what_was_scored_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = summary_of(here)
    model = here / summary["champion"]["path"]
    more = model / "notes.txt"
    more.write_text("mine")
    try:
        assert launch.main([*SUBMIT, "--study", "bin2"]) == 2
        assert "weighs" in capsys.readouterr().err
    finally:
        more.unlink()


def test_with_comet_the_champion_is_its_and_nothing_is_translated_again(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = result_of(summary_of(here), here)

    def translating(*_args: Any, **_options: Any) -> list[str]:
        raise AssertionError("translations are kept")

    with monkeypatch.context() as patch:
        patch.setattr("search.exam.translate", translating)
        assert launch.main(search("--comet", "--comet-env", "comet")) == 0
    summary = summary_of(here)
    assert summary["chosen_by"] == "COMET"
    result = result_of(summary, here)
    if result["trial"] == before["trial"]:
        assert result["translations"] == before["translations"]
    rows = [*summary["finalists"], *summary["baselines"]]
    assert summary["champion"]["select_comet"] == max(row["select_comet"] for row in rows)
    german = result["scores"]["en-de"]
    assert german["comet"] == pytest.approx(sum(german["segments"]) / 4, abs=0.01)
    assert any(text.startswith("COMET|model:Unbabel/wmt22-comet-da|hash:") for text in german["signatures"])
    assert all("COMET" in row["leads"] for row in summary["leads"])
    assert "chosen by COMET" in capsys.readouterr().out


def test_whole_talks_are_segmented_and_scored_anew(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gold = result_of(summary_of(here), here)
    assert launch.main(search("--segments", "vad")) == 0
    summary = summary_of(here)
    assert summary["segments"] == "vad"
    result = result_of(summary, here)
    assert {len(texts) for texts in result["translations"].values()} == {4}
    assert result["bytes_on_disk"] == gold["bytes_on_disk"] or result["trial"] != gold["trial"]
    (told,) = (text for text in result["scores"]["en-zh"]["signatures"] if text.startswith("segments|"))
    assert told.startswith("segments|whole talks|silero-vad 6.")
    assert "mweralign 1.4" in told
    assert "whole talks, re-segmented" in capsys.readouterr().out
    assert launch.main([*SUBMIT, "--study", "bin2"]) == 0
    assert "whole talks" in (here / "submission" / "message.txt").read_text()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--comet", "--comet-env", "none"], "COMET's environment none is not there; make it by python launch.py"),
        (["--comet", "./none", "--comet-env", "comet"], "COMET model ./none: no such file or folder; give"),
        (["--beams", "0"], "--beams 0: from 1, which is greedy, to 64"),
        (["--seed", "0", "--condition", "unconstrained"], "condition was"),
    ],
)
def test_mistakes_are_told_before_anything_is_done(
    more: list[str], words: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (here / "studies" / "bin2" / "summary.json").read_bytes()
    assert launch.main(search(*more)) == 2
    error = capsys.readouterr().err
    assert words in error.splitlines()[-1]
    assert (here / "studies" / "bin2" / "summary.json").read_bytes() == before


def test_a_constrained_study_of_other_data_is_refused(
    tmp_path: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = write_manifest(tmp_path)
    assert launch.main(search("--study", "mine", data=str(manifest))) == 2
    assert "is not ACL 60/60, and nothing else may be used" in capsys.readouterr().err
    assert not (here / "studies" / "mine").exists()


def test_a_constrained_study_of_a_model_adapted_to_other_data_is_refused(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(here / "model", tmp_path / "adapted")
    (tmp_path / "adapted" / "adapted.json").write_text(json.dumps({**ADAPTED, "data": "other"}))
    assert launch.main([*search("--study", "mine"), "--model", str(tmp_path / "adapted")]) == 2
    assert "was adapted to other data than --data has" in capsys.readouterr().err
    for damage in ("[4]", "{", '{"data": "x"}'):
        (tmp_path / "adapted" / "adapted.json").write_text(damage)
        assert launch.main([*search("--study", "mine"), "--model", str(tmp_path / "adapted")]) == 2
        assert "adapted.json is damaged" in capsys.readouterr().err


def test_a_study_whose_trials_read_the_report_role_fails(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial that asks for it raises, and a search of such trials ends without one complete."""
    opened: list[Corpus] = []
    of_role = Corpus.examples

    def spying(self: Corpus, role: str) -> Any:
        opened.append(self)
        return of_role(self, role)

    def leaking(self: Workbench, *_args: Any, **_options: Any) -> Any:
        yield (float(len(opened[-1].examples("report"))),)

    monkeypatch.setattr(Corpus, "examples", spying)
    monkeypatch.setattr(Workbench, "rungs", leaking)
    assert launch.main(search("--study", "leaking", "--trials", "6")) == 2
    assert not (here / "studies" / "leaking" / "summary.json").exists()
