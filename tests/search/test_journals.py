"""A study in Optuna's journal file: made, killed, taken up, listed, watched; half lines, damage, a second driver."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

import launch
from search.dashboard import DashboardSettings, dashboard_server
from search.driving import driver_lock
from search.listing import list_studies
from search.storages import file_of, storage_of

ROOT = Path(__file__).parents[2]
TRIALS = 6
LOG = "studies/bin2/study.log"

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


@pytest.fixture(scope="module")
def command(words: list[str]) -> list[str]:
    small = ["--heal-steps", "2", "--trial-heal-steps", "2", "--recombined", "0", "--finalists", "1"]
    return ["--bin", "2", *words, *small, "--trials", str(TRIALS)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, command: list[str]) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    (folder / "studies" / "bin2").mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert launch.main([*command, "--storage", LOG]) == 0
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of where the finished study is, entered."""
    shutil.copytree(finished / "studies", tmp_path / "studies")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def trials_of(path: Path) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="bin2", storage=JournalStorage(JournalFileBackend(str(path)))).trials


def test_a_journal_has_the_trials_a_database_has(
    finished: Path, folder: Path, command: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert not (folder / "studies/bin2/study.db").exists()
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.chdir(other)
    assert launch.main(command) == 0
    database = optuna.load_study(study_name="bin2", storage="sqlite:///studies/bin2/study.db").trials
    assert [(one.params, one.values, one.state) for one in database] == [
        (one.params, one.values, one.state) for one in trials_of(finished / LOG)
    ]


def test_a_killed_study_goes_on_in_its_journal(finished: Path, tmp_path: Path, command: list[str]) -> None:
    launched = [sys.executable, str(ROOT / "launch.py"), *command, "--storage", "journal://trials.log"]
    process = subprocess.Popen(launched, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal = tmp_path / "trials.log"
    give_up = time.monotonic() + 300
    # a trial that ended is a line of its own
    while not journal.exists() or journal.read_bytes().count(b'"op_code":6') < 2:
        assert process.poll() is None, "the search ended before it could be killed"
        assert time.monotonic() < give_up
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = [trial for trial in trials_of(journal) if trial.state.is_finished()]
    assert before
    with journal.open("ab") as file:
        file.write(b'{"op_code":8,"worker_id":"half a li')
    subprocess.run(launched, cwd=tmp_path, check=True, capture_output=True)
    after = trials_of(journal)
    assert after[: len(before)] == before
    assert len(after) == TRIALS
    assert [(one.params, one.values) for one in after] == [
        (one.params, one.values) for one in trials_of(finished / LOG)
    ]


def test_a_journal_goes_on_is_listed_and_watched(folder: Path, command: list[str]) -> None:
    before = trials_of(folder / LOG)
    assert launch.main([*command, "--storage", LOG, "--trials", str(TRIALS + 1)]) == 0
    assert trials_of(folder / LOG)[:TRIALS] == before
    (row,) = list_studies(Path("studies"))["studies"]
    assert (row["ended"], row["asked"], row.get("reason")) == (TRIALS + 1, TRIALS + 1, None)
    with dashboard_server(DashboardSettings("bin2", LOG, port=0)) as (server, address):
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        with urllib.request.urlopen(f"{address.partition('/dashboard')[0]}/api/studies/0") as answer:  # noqa: S310
            found = json.loads(answer.read())
        server.shutdown()
        thread.join()
    assert len(found["trials"]) == TRIALS + 1
    assert all(trial["note"]["body"] for trial in found["trials"])


def test_plans_of_another_journal_come_first(folder: Path, command: list[str]) -> None:
    more = ["--storage", LOG, "--study", "second", "--warm-start", "bin2", "--seed", "1", "--trials", "10"]
    assert launch.main([*command, *more]) == 0
    second = optuna.load_study(study_name="second", storage=JournalStorage(JournalFileBackend(LOG)))
    assert any("warm start" in trial.user_attrs for trial in second.trials)


def test_a_journal_has_one_driver_wherever_it_is_driven_from(
    folder: Path,
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with driver_lock(folder / "studies" / "bin2", LOG):
        monkeypatch.chdir(other)
        assert launch.main([*command, "--storage", str(folder / LOG)]) == 2
    error = capsys.readouterr().err
    assert "driven by process" in error
    assert " since 20" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("text", ["no journal\nat all\n", '{"op_code": 0}\n{}\n', '[]\n"x"\n'])
def test_what_is_no_journal_is_one_line(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("notes.log").write_text(text)
    assert launch.main([*command, "--storage", "notes.log"]) == 2
    error = capsys.readouterr().err
    assert "notes.log: is no journal, or damaged" in error
    assert error.count("\n") == 1
    assert Path("notes.log").read_text() == text


def test_a_half_line_is_cut_off_by_the_next_to_write(tmp_path: Path) -> None:
    path = tmp_path / "trials.log"
    with storage_of(str(path)) as storage:
        optuna.create_study(storage=storage, study_name="one")
        whole = path.read_bytes()
        path.write_bytes(whole + b'{"op_code":0,"wor')
        optuna.create_study(storage=storage, study_name="two")
    assert path.read_bytes().startswith(whole)
    with storage_of(str(path)) as storage:
        assert optuna.get_all_study_names(storage) == ["one", "two"]


@pytest.mark.parametrize(
    ("url", "file"),
    [
        ("trials.log", "trials.log"),
        ("journal://a/trials", "a/trials"),
        ("journal:///a/trials.log", "/a/trials.log"),
        ("sqlite:///a/study.db?timeout=3", "a/study.db"),
        ("sqlite:////a/study.db", "/a/study.db"),
        ("postgresql://host/a.log", None),
    ],
)
def test_storages_that_are_files(url: str, file: str | None) -> None:
    assert file_of(url) == (Path(file) if file else None)
