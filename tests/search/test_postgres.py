"""A study in PostgreSQL: killed, its server restarted under it, driven from two folders. Needs initdb and pg_ctl."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import optuna
import pytest
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial
from sqlalchemy.exc import SQLAlchemyError

from search.storages import TakenError, storage_of

ROOT = Path(__file__).parents[2]
TRIALS = 12
_PATIENCE_SECONDS = 300.0

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("initdb") or not shutil.which("pg_ctl"), reason="no PostgreSQL here"),
    # connections that a server took with it
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
]


@dataclass(frozen=True)
class Server:
    """A server of its own; who is root runs it as the user postgres, which it insists on."""

    folder: Path
    port: int

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def run(self, *words: str) -> None:
        command = ["su", "postgres", "-c", " ".join(words)] if os.getuid() == 0 else ["sh", "-c", " ".join(words)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/")

    def control(self, word: str) -> None:
        told = f"-o '-p {self.port} -k {self.folder}' -l {self.folder}/log"
        self.run("pg_ctl", "-D", f"{self.folder}/data", told, "-w", "-m", "immediate", word)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    # pytest's own folders are for nobody else
    with tempfile.TemporaryDirectory() as name, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        found = Server(Path(name), free.getsockname()[1])
        free.close()
        if os.getuid() == 0:
            shutil.chown(name, "postgres")
        found.run("initdb", "-D", f"{name}/data", "-U", "postgres", "-A", "trust")
        found.control("start")
        yield found
        found.control("stop")


@pytest.fixture
def command(words: list[str], server: Server, request: pytest.FixtureRequest) -> list[str]:
    small = ["--heal-steps", "2", "--trial-heal-steps", "2", "--recombined", "0", "--finalists", "1"]
    named = ["--study", request.node.name, "--storage", server.url, "--trials", str(TRIALS)]
    return [sys.executable, str(ROOT / "launch.py"), "--bin", "2", *words, *small, *named]


def start(command: list[str], folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def trials_of(server: Server, name: str) -> list[FrozenTrial]:
    with storage_of(server.url, make=False) as storage:
        return optuna.load_study(storage=storage, study_name=name).trials


def ended(server: Server, name: str) -> dict[int, FrozenTrial]:
    try:
        return {trial.number: trial for trial in trials_of(server, name) if trial.state.is_finished()}
    except (KeyError, RuntimeError, StorageInternalError, SQLAlchemyError):
        return {}


def until_ended(server: Server, name: str, count: int, process: subprocess.Popen[str]) -> None:
    give_up = time.monotonic() + _PATIENCE_SECONDS
    while len(ended(server, name)) < count and process.poll() is None:
        assert time.monotonic() < give_up
        time.sleep(0.05)


def finish(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, check=False, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_killed_study_is_taken_up(
    command: list[str], server: Server, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    name = request.node.name
    before: dict[int, FrozenTrial] = {}
    for count in (1, 4, 8):
        process = start(command, tmp_path)
        until_ended(server, name, count, process)
        process.send_signal(signal.SIGKILL)
        _, complaint = process.communicate()
        assert process.returncode == -signal.SIGKILL, complaint
        now = ended(server, name)
        assert {number: now[number] for number in before} == before
        before = now
    # from another folder, too: nobody has it any more
    (tmp_path / "other").mkdir()
    finish(command, tmp_path / "other")
    trials = trials_of(server, name)
    assert [trial.number for trial in trials] == list(range(TRIALS))
    assert all(trial.state.is_finished() for trial in trials)
    assert {trial.number: trial for trial in trials if trial.number in before} == before


def test_a_search_survives_restarts_of_its_server(
    command: list[str], server: Server, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A restart in the middle of a transaction may end it, with one line; the same command then goes on."""
    name, rng = request.node.name, random.Random(0)
    command = [*command, "--trial-heal-steps", "60"]
    survived, before = 0, 0
    process = start(command, tmp_path)
    for count in (1, 3, 5, 7, 9):
        until_ended(server, name, count, process)
        time.sleep(rng.uniform(0.1, 0.6))
        server.control("restart")
        until_ended(server, name, count + 1, process)
        if process.poll() is not None:
            _, complaint = process.communicate()
            assert process.returncode == 2, complaint
            assert complaint.count("\n") == 1
            assert "run the same command" in complaint
            process = start(command, tmp_path)
        else:
            survived += 1
        now = len(ended(server, name))
        assert now >= before
        before = now
    _, complaint = process.communicate()
    assert process.returncode == 0, complaint
    print(f"\nrestarts of the server survived: {survived} of 5")
    assert survived
    trials = trials_of(server, name)
    assert [trial.number for trial in trials] == list(range(TRIALS))
    assert all(trial.state.is_finished() for trial in trials)


def test_a_second_driver_in_another_folder_is_told_of_the_first(
    command: list[str], server: Server, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    (tmp_path / "other").mkdir()
    command = [*command, "--trials", "300"]
    process = start(command, tmp_path)
    until_ended(server, request.node.name, 1, process)
    second = subprocess.run(command, check=False, cwd=tmp_path / "other", capture_output=True, text=True)
    assert second.returncode == 2, process.communicate()
    assert f"driven by process {process.pid} on {socket.gethostname()} since 20" in second.stderr
    assert second.stderr.count("\n") == 1
    process.send_signal(signal.SIGKILL)
    _, complaint = process.communicate()
    assert process.returncode == -signal.SIGKILL, complaint


def test_a_study_is_taken_again_from_a_server_that_restarted(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with storage_of(server.url, driven="again") as storage:
        study = optuna.create_study(storage=storage, study_name="again")
        with storage_of(server.url, driven="another"):
            pass
        for place in range(2):
            study.set_user_attr("place", place)
            with pytest.raises(TakenError), storage_of(server.url, driven="again"):
                pass
            server.control("restart")
        # whoever came while nobody had it, has it: the first ends
        monkeypatch.setattr("search.storages._AWAY_SECONDS", 1.0)
        with storage_of(server.url, driven="again"), pytest.raises(TakenError):
            study.set_user_attr("place", 2)


def test_a_server_that_is_not_there_is_one_line(command: list[str], server: Server, tmp_path: Path) -> None:
    server.control("stop")
    done = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True)
    server.control("start")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    finish(command, tmp_path)


def test_studies_that_begin_at_the_same_time_make_one_database(server: Server) -> None:
    together = threading.Barrier(4)
    server.run("createdb", "-h", "127.0.0.1", "-p", f"{server.port}", "-U", "postgres", "new")
    url = server.url.removesuffix("postgres") + "new"

    def begin(number: int) -> None:
        together.wait()
        with storage_of(url, driven=f"bin{number}") as storage:
            optuna.create_study(storage=storage, study_name=f"bin{number}")

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(begin, range(4)))
    with storage_of(url, make=False) as storage:
        assert sorted(optuna.get_all_study_names(storage)) == ["bin0", "bin1", "bin2", "bin3"]
