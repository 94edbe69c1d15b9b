"""Adaptation on tiny models: it learns, goes on to the same bits after a stop, and keeps what is best on select."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

import launch
import search.adapting
from compress.adapt import METHODS, AdaptSettings, State, adapt, mean_loss
from compress.checkpoint import folder_bytes
from corpora.roles import Corpus, open_corpus
from models.inputs import Row
from models.loading import load_source
from space.errors import UserError
from tests.tiny import TINY, load_tiny, tiny_rows, write_roles, write_tiny, write_tiny_llama

SETTINGS = {
    "lora": AdaptSettings("lora", steps=20, rank=4, peak_rate=1e-2, batch_rows=4, seed=3),
    "full": AdaptSettings("full", steps=20, rank=0, peak_rate=3e-3, batch_rows=4, seed=3),
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_roles(tmp_path_factory.mktemp("corpus"), (6, 1, 2, 1))


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> list[str]:
    """A command but for its --out."""
    model = write_tiny(tmp_path_factory.mktemp("tiny"))
    options = {"--model": model, "--data": corpus, "--steps": 20, "--rank": 4, "--rate": 1e-2, "--batch-rows": 4}
    return ["adapt", *(str(word) for pair in options.items() for word in pair)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, words: list[str]) -> tuple[Path, dict[str, Any]]:
    """An adapted folder, and what was seen on the way: corpus, rows trained on, and the model as it was kept."""
    out, seen = tmp_path_factory.mktemp("finished") / "adapted", {}

    def spying_open(*args: Any, **options: Any) -> Corpus:
        seen["corpus"] = open_corpus(*args, **options)
        return seen["corpus"]

    def spying_adapt(model: Any, rows: list[Row], *args: Any, **options: Any) -> tuple[Any, State]:
        seen["rows"] = rows
        kept, last = adapt(model, rows, *args, **options)
        seen["kept"] = {name: tensor.to(torch.bfloat16) for name, tensor in kept.state_dict().items()}
        return kept, last

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search.adapting, "open_corpus", spying_open)
        patch.setattr(search.adapting, "adapt", spying_adapt)
        assert launch.main([*words, "--out", str(out)]) == 0
    return out, seen


def copied(state: State) -> State:
    return replace(state, tensors={name: tensor.clone() for name, tensor in state.tensors.items()})


@pytest.mark.parametrize("kind", TINY)
@pytest.mark.parametrize("method", METHODS)
def test_it_learns_and_goes_on_to_the_same_bits(method: str, kind: str, tmp_path: Path) -> None:
    folder = load_tiny(tmp_path, kind).folder
    settings, states = SETTINGS[method], list[State]()

    def run(start: State | None = None) -> tuple[Any, State]:
        source = load_source(folder)
        rows = tiny_rows(source)
        return adapt(
            source.model, rows, rows[:2], settings, start=start, keep=lambda state: states.append(copied(state))
        )

    whole, last = run()
    assert last.losses[last.best_step] < 0.85 * last.losses[0]
    assert list(last.losses) == [0, *range(2, 21, 2)]
    again, last_again = run(start=states[4])
    assert last_again.losses == last.losses
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in whole.state_dict().items())
    assert whole.state_dict().keys() == load_source(folder).model.state_dict().keys()


@pytest.mark.parametrize("method", METHODS)
def test_the_state_returned_is_the_best_on_held_out_rows(method: str, tmp_path: Path) -> None:
    """Rows to learn and rows held out disagree: what helps at first harms later."""
    source = load_tiny(tmp_path, "qwen2")
    rows = tiny_rows(source)
    settings = replace(SETTINGS[method], steps=40, rank=16, peak_rate=3e-2)
    model, last = adapt(source.model, rows[::2], rows[1::2], settings)
    assert last.losses[last.best_step] < last.losses[last.step]
    assert mean_loss(model, rows[1::2], 4) == pytest.approx(last.losses[last.best_step], rel=1e-5)


def test_a_rate_that_breaks_the_model_is_named(tmp_path: Path) -> None:
    source = load_tiny(tmp_path, "qwen2")
    rows = tiny_rows(source)
    with pytest.raises(UserError, match=r"select role is nan after 2 steps; --rate 1e\+25 is too high"):
        adapt(source.model, rows, rows, replace(SETTINGS["full"], peak_rate=1e25))


def test_the_folder_holds_the_kept_state_and_its_story(finished: tuple[Path, dict[str, Any]], words: list[str]) -> None:
    out, seen = finished
    loaded = load_source(out).model.state_dict()
    assert loaded.keys() == seen["kept"].keys()
    for name, tensor in seen["kept"].items():
        assert torch.equal(loaded[name], tensor.float())
    story = json.loads((out / "adapted.json").read_text())
    assert story["select_loss"]["after"] < story["select_loss"]["before"]
    assert (story["method"], story["rank"], story["role"]) == ("lora", 4, "calibrate")
    source = Path(words[2])
    stored = {name: (tensor.dtype, tensor.shape) for name, tensor in load_file(out / "model.safetensors").items()}
    given = load_file(source / "model.safetensors")
    assert stored == {name: (torch.bfloat16, tensor.shape) for name, tensor in given.items()}
    names = {path.name for path in source.iterdir()} | {"adapted.json"}
    assert {path.name for path in out.iterdir()} == names
    for name in names - {"adapted.json", "config.json", "model.safetensors"}:
        assert (out / name).read_bytes() == (source / name).read_bytes()
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_only_calibrate_is_trained_on(finished: tuple[Path, dict[str, Any]]) -> None:
    out, seen = finished
    assert set(seen["corpus"].opened) == {"calibrate", "select"}
    tokenizer = load_source(out).processor.tokenizer
    targets = {tokenizer.decode(row.target, skip_special_tokens=True) for row in seen["rows"]}
    examples = seen["corpus"].opened["calibrate"]
    assert targets == {text for example in examples for text in example.references.values()}


@pytest.mark.parametrize("stop_at", [1, 4])
def test_stopped_while_it_writes_it_goes_on_to_the_same_files(
    stop_at: int,
    finished: tuple[Path, dict[str, Any]],
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, write, calls = tmp_path / "adapted", search.adapting.write_whole, []

    def stopping_write(path: Path, text: str) -> None:
        calls.append(path)
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        write(path, text)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search.adapting, "write_whole", stopping_write)
        assert launch.main([*words, "--out", str(out)]) == 130
    assert not out.exists()
    hidden = tmp_path / ".adapted.training"
    assert (hidden / "state.json").exists() == (stop_at > 1)
    if stop_at > 1:
        capsys.readouterr()
        assert launch.main([*words, "--out", str(out), "--seed", "5", "--rate", "0.02"]) == 2
        assert "rate was 0.01, now 0.02; seed was 0, now 5" in capsys.readouterr().err
    assert launch.main([*words, "--out", str(out)]) == 0
    for path in finished[0].iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes()
    assert not hidden.exists()


def test_a_finished_adaptation_is_only_reported(
    finished: tuple[Path, dict[str, Any]],
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, _ = finished
    monkeypatch.delattr(search.adapting, "adapt")
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    capsys.readouterr()
    assert launch.main([*words, "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {**json.loads((out / "adapted.json").read_text()), "path": str(out)}
    assert launch.main([*words, "--out", str(out), "--steps", "21"]) == 2
    assert "steps was 20, now 21" in capsys.readouterr().err
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before


def test_one_process_trains_at_a_time(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with search.adapting.alone(tmp_path / ".adapted.training"):
        assert launch.main([*words, "--out", str(tmp_path / "adapted")]) == 2
    assert "another process is at work there" in capsys.readouterr().err


def test_a_damaged_state_is_named(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hidden = tmp_path / ".adapted.training"
    hidden.mkdir()
    (hidden / "state.json").write_text('{"settings": ')
    assert launch.main([*words, "--out", str(tmp_path / "adapted")]) == 2
    assert "remove it to begin again" in capsys.readouterr().err


def test_where_training_only_harms_the_model_stays_as_it_was(corpus: Path, tmp_path: Path) -> None:
    model, out, texts = write_tiny_llama(tmp_path / "model"), tmp_path / "adapted", tmp_path / "texts"
    texts.mkdir()
    for path in corpus.iterdir():
        pq.write_table(pq.read_table(path).drop_columns(["audio"]), texts / path.name)
    words = ["adapt", "--model", str(model), "--data", str(texts), "--langs", "en-de", "--out", str(out)]
    assert launch.main([*words, "--method", "full", "--steps", "2", "--rate", "1", "--json"]) == 0
    story = json.loads((out / "adapted.json").read_text())
    assert story["best_step"] == 0
    assert story["select_loss"]["after"] == story["select_loss"]["before"] < story["losses"][-1][1]
    assert (out / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()


@pytest.fixture
def entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, where a folder of the user's is."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "adapted.json").write_text("[4]")
    return tmp_path


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--steps", "0"], "--steps 0: at least 1"),
        (["--steps", "-3"], "--steps -3: at least 1"),
        (["--batch-rows", "0"], "--batch-rows 0: at least 1"),
        (["--rank", "0"], "--rank 0: at least 1"),
        (["--rank", "4", "--method", "full"], "only --method lora has a rank"),
        (["--rate", "0"], "--rate 0: more than 0"),
        (["--rate", "nan"], "--rate nan: more than 0"),
        (["--rate", "1e38"], "--rate 1e+38: more than 0, at most 1"),
        (["--method", "dora"], "choose from lora, full"),
        (["--langs", "en-fr"], "choose from en-de, en-zh"),
        (["--seed", "-1"], "--seed -1"),
        (["--out", "/"], "give the name of a new folder"),
        (["--out", "."], "give the name of a new folder"),
        (["--out", "there"], "no finished adaptation"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    given: list[str], said: str, words: list[str], entered: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = dict(zip(words[1::2], words[2::2], strict=True)) | {"--out": "adapted"}
    options |= dict(zip(given[::2], given[1::2], strict=True))
    assert launch.main(["adapt", *(word for pair in options.items() for word in pair)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert [path.name for path in entered.iterdir()] == ["there"]
    assert folder_bytes(entered) == len("[4]")
