"""Models and files of hypotheses scored from the command line, and held against each other."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sacrebleu
from rich.console import Console

import launch
from corpora.roles import open_corpus
from models.inputs import Row
from models.loading import load_source
from scoring import translate as translating
from scoring.kept import KeptTexts
from search.exam import Exam, examined
from search.progress import progress_on
from tests import comet as standing
from tests.tiny import write_roles, write_tiny, write_tiny_qwen2


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
    write(folder / "open-decoder.txt", german)
    write(folder / "nothing.en-de.txt", ["", " "])
    (folder / "reader").mkdir()
    write_tiny_qwen2(folder / "reader")
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


def test_lines_end_with_line_feeds_alone(here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = references(here, "de")
    (tmp_path / "odd.en-de.txt").write_bytes("\r\n".join([f"{lines[0]}\u2028", *lines[1:]]).encode())
    found = evaluated(capsys, str(tmp_path / "odd.en-de.txt"))["scores"]["en-de"]
    assert "segments|as many lines as references, not re-segmented" in found["signatures"]
    assert found["bleu"] == 100


def test_files_are_scored_where_there_is_no_audio(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for columns in (["id", "talk", "en", "de", "zh"], ["id", "talk", "de", "zh"]):
        write_roles(tmp_path, (2, 2, 2, 6), columns)
        # the direction that is asked for, of those that the name may mean
        for name in ("worse.en-de.txt", "not-en-zh.EN-DE.txt"):
            shutil.copy("worse.en-de.txt", tmp_path / name)
            words = ["evaluate", str(tmp_path / name), "--langs", "en-de", "--data", str(tmp_path), "--json"]
            assert launch.main(words) == 0
            assert list(json.loads(capsys.readouterr().out)["scores"]) == ["en-de"]
    assert launch.main(["evaluate", "model", "--data", str(tmp_path), "--json"]) == 2
    assert "no column audio" in capsys.readouterr().err


def test_whole_talks_keep_the_order_of_the_data(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Talks that take turns in the data: what is said in each goes to its own utterances."""
    shutil.copytree(here / "data", tmp_path / "data")
    report = tmp_path / "data" / "report.parquet"
    rows = pq.read_table(report).to_pylist()
    for place, row in enumerate(rows):
        row["talk"] = f"talk {place % 2}"
    pq.write_table(pa.Table.from_pylist(rows, pq.read_schema(report)), report)
    corpus = open_corpus(tmp_path / "data", ["de"])
    exam = Exam(corpus, ("en-de",), corpus.fingerprint(), segments="vad")
    wanted = [row["de"] for row in rows]
    # a talk is one segment, whose translation is perfect
    monkeypatch.setattr("search.exam.speech_segments", lambda samples, _longest: [(0, len(samples))])
    monkeypatch.setattr("search.exam.translate", lambda *_, **__: [" ".join(wanted[0::2]), " ".join(wanted[1::2])])
    processor = SimpleNamespace(feature_extractor=SimpleNamespace(chunk_length=30))
    assert exam.translations(None, processor, "report").texts == {"en-de": wanted}
    assert exam.references("report") == {"en-de": wanted}


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
    assert "6 gold segments into de, greedy, in batches of 32" in found["seconds an utterance"]["method"]


def test_beams_change_no_text_with_the_batch(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, four = (
        evaluated(capsys, "model", "--beams", "2", "--batch-size", size, "--langs", "en-de") for size in ("1", "4")
    )
    assert one["scores"] == four["scores"]
    assert "decoding|2 beams, at most 256 tokens" in one["scores"]["en-de"]["signatures"]


def test_comet_needs_what_is_said(here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_roles(tmp_path, (2, 2, 2, 2), ["id", "talk", "audio", "de"])
    shutil.copytree(here / "data", tmp_path / "mixed")
    shutil.copy(tmp_path / "report.parquet", tmp_path / "mixed" / "report.parquet")
    # what is asked is whether the role has it that is scored
    for data, role, status in (
        (tmp_path, "report", 2),
        (tmp_path / "mixed", "report", 2),
        (tmp_path / "mixed", "select", 0),
    ):
        words = ["evaluate", "model", "--langs", "en-de", "--data", str(data), "--role", role]
        assert launch.main([*words, "--comet", "--comet-env", "comet"]) == status
        told = "has no English text, which COMET reads; add column en" in capsys.readouterr().err
        assert told == (status == 2)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["nothing"], "nothing: no such folder or file; give the folder of a model, or a file of hypotheses"),
        (["data/report.parquet"], "of which direction? give --langs en-de, or name it so"),
        (["data/report.parquet", "--langs", "en-de"], "is not UTF-8"),
        (["good.en-de.txt", "--figures"], "--figures: are of models"),
        (["good.en-de.txt", "--langs", "en-fr"], "--langs en-fr: choose from en-de, en-zh"),
        (["good.en-de.txt", "--langs", "en-zh"], "is en-de by its name, and --langs is en-zh; give --langs en-de"),
        (["open-decoder.txt"], "open-decoder.txt: of which direction? give --langs en-de, or name it so"),
        (["nothing.en-de.txt"], "nothing.en-de.txt: has no text; give a file with a hypothesis a line"),
        (["model", "reader"], "model hears audio and reader reads text; evaluate them apart"),
        (["reader", "model"], "model hears audio and reader reads text; evaluate them apart"),
        (["model", "--beams", "0"], "--beams 0"),
        (["model", "--beams", "65"], "--beams 65: from 1, which is greedy, to 64"),
        (["model", "--batch-size", "0"], "--batch-size 0"),
        (
            ["model", "--kept", "good.en-de.txt"],
            "--kept good.en-de.txt: cannot be written (File exists); give another folder",
        ),
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


def test_texts_stay_until_every_system_is_scored(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", "model", "second", "--langs", "en-de", "--data", "data"]
    shutil.copytree("model", "second")
    Path("second/more.txt").write_text("another")
    with monkeypatch.context() as patch:
        patch.setattr("search.evaluating.leads_of", _interrupted)
        assert launch.main(words) == 130
    assert len(list(Path("studies/evaluations").iterdir())) == 2
    monkeypatch.setattr(translating, "_generate", _not_called)
    assert launch.main(words) == 0
    assert not list(Path("studies/evaluations").iterdir())


def _interrupted(*_given: Any) -> None:
    raise KeyboardInterrupt


def test_evaluations_of_one_model_keep_their_texts_apart(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", "model", "--langs", "en-de", "--data", "data"]
    for more in ([], ["--beams", "2"]):
        with monkeypatch.context() as patch:
            patch.setattr(Exam, "scored", _interrupted)
            assert launch.main([*words, *more]) == 130
    texts = [path.read_text() for path in Path("studies/evaluations").iterdir()]
    assert len(texts) == 2
    assert sum("2 beams" in text for text in texts) == 1
    shutil.rmtree("studies")


def test_segments_are_as_short_as_asked(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("model", "--langs", "en-de", "--segments", "vad")
    # as the miniature the model hears four seconds at once
    for more, seconds in ((), "4"), (("--segment-seconds", "20"), "4"), (("--segment-seconds", "2.5"), "2.5"):
        (told,) = (
            text
            for text in evaluated(capsys, *words, *more)["scores"]["en-de"]["signatures"]
            if text.startswith("segments|")
        )
        assert f", at most {seconds} s|" in told


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


def _not_called(*_given: Any) -> Any:
    raise AssertionError("translations are kept")


def test_translating_is_watched_within_what_else_is(here: Path) -> None:
    """As a finalist's select role is, while its healing's bar stands."""
    corpus = open_corpus(here / "data", ["de"])
    console = Console(force_terminal=True, file=io.StringIO(), width=100)
    exam = Exam(corpus, ("en-de",), corpus.fingerprint(), batch_size=2, console=console)
    source = load_source(here / "model")
    with progress_on(console) as bar:
        bar.add_task("healing trial 3", total=2)
        exam.translations(source.model, source.processor, "report")
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "healing trial 3" in shown
    assert "translating en-de" in shown
    assert "6/6" in shown
