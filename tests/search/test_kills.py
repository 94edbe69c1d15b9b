"""kill -9 at any moment: what had ended stays as it was, and the end is that of a search nobody disturbed."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial

from compress.checkpoint import folder_bytes, read_plan
from search.driving import driver_of
from tests.tiny import write_roles, write_tiny_qwen2

ROOT = Path(__file__).parents[2]
NAME = "bin2"
# What differs between two runs of one seed: how long things took, how often they were begun, when.
_OWN = ("seconds", "begun")
_LOOK_SECONDS = 0.002
_PATIENCE_SECONDS = 300.0

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("reading")
    (folder / "model").mkdir()
    (folder / "data").mkdir()
    model, data = write_tiny_qwen2(folder / "model"), write_roles(folder / "data", (4, 4, 2, 2))
    small = ["--heal-steps", "60", "--heal-rows", "4", "--trial-heal-steps", "2", "--recombined", "1"]
    launched = [sys.executable, str(ROOT / "launch.py"), "--bin", "2", "--study", NAME]
    return [*launched, "--model", str(model), "--data", str(data), "--finalists", "2", *small]


@dataclass(frozen=True)
class Run:
    """A search in a folder of its own, from what lies on the disk."""

    command: Sequence[str]
    folder: Path

    @property
    def study(self) -> Path:
        return self.folder / "studies" / NAME

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    def finish(self) -> None:
        done = subprocess.run(self.command, check=False, cwd=self.folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def trials(self) -> list[FrozenTrial]:
        """None yet where a kill came before the study was made."""
        if not (self.study / "study.db").exists():
            return []
        try:
            return optuna.load_study(study_name=NAME, storage=f"sqlite:///{self.study / 'study.db'}").trials
        except (KeyError, RuntimeError):
            return []

    def ended(self) -> int:
        """As `trials`, for who looks often."""
        with suppress(sqlite3.OperationalError):
            uri = f"file:{self.study / 'study.db'}?mode=ro"
            with closing(sqlite3.connect(uri, uri=True)) as connection:
                states = "SELECT COUNT(*) FROM trials WHERE state IN ('COMPLETE', 'PRUNED', 'FAIL')"
                return int(connection.execute(states).fetchone()[0])
        return 0

    def writing(self) -> bool:
        """Whether a file or a folder of the study is half written."""
        return any(self.study.rglob(".*.tmp"))

    def drives(self) -> bool:
        """Whether somebody got as far as to have the study to himself."""
        return driver_of(self.study) is not None


Moment = Callable[[Run], bool]


@dataclass(frozen=True)
class Kill:
    """Comes so many `seconds` behind a moment; `phase` is what it is meant to hit."""

    phase: str
    moment: Moment
    seconds: float


def kills_of(count: int, total: int, seed: int, opening: float, finals: float) -> Iterator[Kill]:
    """A fifth of them while things are opened, two fifths while trials run, two fifths behind.

    The last of each phase is the furthest in it, so that the study gets on; `opening` and `finals` are how many seconds
    these phases take. Every other kill of the finalists comes while something is being written.
    """
    rng = random.Random(seed)
    first, searched = max(1, count // 5), max(1, 2 * count // 5)
    for _ in range(first):
        yield Kill("opening", lambda _run: True, rng.uniform(0, opening))
    for reached in sorted(rng.randrange(total) for _ in range(searched)):
        yield Kill("search", lambda run, least=reached: run.drives() and run.ended() >= least, rng.uniform(0, 1.0))  # type: ignore[misc]
    behind = count - first - searched
    for place in range(behind):
        # healing goes on where it was written down last, so that many kills do not keep it from its end
        seconds = rng.uniform(0, min(1.0, 4 / behind) * finals)
        if place % 2:
            yield Kill("writing", _Behind(total, seconds / 2), 0)
        else:
            yield Kill("finals", lambda run: run.drives() and run.ended() >= total, seconds)


class _Behind:
    """The first moment at which something is half written, so many seconds behind the last trial or later."""

    def __init__(self, total: int, seconds: float) -> None:
        self._total, self._seconds, self._since = total, seconds, float("inf")

    def __call__(self, run: Run) -> bool:
        if self._since == float("inf") and run.drives() and run.ended() >= self._total:
            self._since = time.monotonic()
        return time.monotonic() >= self._since + self._seconds and run.writing()


def killed(run: Run, kill: Kill) -> bool:
    """Whether the kill came before the end did."""
    process = run.start()
    give_up = time.monotonic() + _PATIENCE_SECONDS
    while process.poll() is None and not kill.moment(run):
        assert time.monotonic() < give_up
        time.sleep(_LOOK_SECONDS)
    with suppress(subprocess.TimeoutExpired):
        process.wait(kill.seconds)
    process.send_signal(signal.SIGKILL)
    _, complaint = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), complaint
    return process.returncode != 0


def ended_of(trials: Sequence[FrozenTrial]) -> dict[int, FrozenTrial]:
    return {trial.number: trial for trial in trials if trial.state.is_finished()}


def check_artefacts(run: Run, bound_bytes: int) -> None:
    """Every model there is is whole and under the bound, and so is every result."""
    for model in run.study.glob("finalists/*/model"):
        read_plan(model)
        assert folder_bytes(model) < bound_bytes
    for result in run.study.glob("finalists/*/result.json"):
        assert json.loads(result.read_text())["bytes_on_disk"] == folder_bytes(result.with_name("model"))


def check_end(run: Run, other: Run, total: int) -> None:
    """All of a search is as in another, but for how long it took."""
    trials, others = run.trials(), other.trials()
    assert [trial.number for trial in trials] == list(range(total))
    assert all(trial.state.is_finished() for trial in trials)
    for mine, theirs in zip(trials, others, strict=True):
        assert (mine.state, mine.params, mine.values) == (theirs.state, theirs.params, theirs.values), mine.number
        assert without(mine.user_attrs) == without(theirs.user_attrs)
    assert without(summary_of(run)) == without(summary_of(other))
    sums = [sorted(one.study.glob("finalists/*/model/SHA256SUMS")) for one in (run, other)]
    assert [path.read_text() for path in sums[0]] == [path.read_text() for path in sums[1]]
    left = [path for path in run.study.rglob("*") if path.name.startswith((".", "healing."))]
    assert not left, "nothing half done lies about"


def summary_of(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run.study / "summary.json").read_text())
    return found


def without(found: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in found.items() if key not in _OWN}


def survives(command: Sequence[str], folder: Path, total: int, kills: int, seed: int = 0) -> Counter[str]:
    """Kills a search so often, has it end, and holds it against an undisturbed one; returns how many kills hit what."""
    command = [*command, "--trials", str(total)]
    whole, run = Run(command, folder / "whole"), Run(command, folder / "killed")
    whole.folder.mkdir()
    run.folder.mkdir()
    started = time.time()
    whole.finish()
    opening = whole.trials()[0].datetime_start.timestamp() - started
    finals = (whole.study / "summary.json").stat().st_mtime - max(
        trial.datetime_complete.timestamp() for trial in whole.trials()
    )
    bound_bytes = summary_of(whole)["bound_bytes"]
    hit: Counter[str] = Counter()
    before: dict[int, FrozenTrial] = {}
    for kill in kills_of(kills, total, seed, opening, finals):
        hit[kill.phase if killed(run, kill) else "the end came first"] += 1
        now = ended_of(run.trials())
        assert {number: now.get(number) for number in before} == before
        before = now
        check_artefacts(run, bound_bytes)
    run.finish()
    assert {number: trial for number, trial in ended_of(run.trials()).items() if number in before} == before
    check_end(run, whole, total)
    return hit


def test_a_search_that_is_killed_comes_to_the_same_end(command: list[str], tmp_path: Path) -> None:
    hit = survives(command, tmp_path, total=8, kills=5)
    assert hit.total() == 5
    assert len(hit) > 2


@pytest.mark.slow
def test_fifty_kills_change_nothing(command: list[str], tmp_path: Path) -> None:
    hit = survives([*command, "--finalists", "4", "--heal-steps", "150"], tmp_path, total=60, kills=50)
    print(f"\nkills that hit: {dict(hit)}")
    assert hit["the end came first"] < 10


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    """The processes that evaluate plans for a driver."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


@pytest.fixture
def shared(command: list[str], tmp_path: Path) -> Run:
    """A search of two workers."""
    more = ["--workers", "2", "--trials", "8", "--heal-steps", "0", "--finalists", "1"]
    return Run([*command, *more], tmp_path)


def until(moment: Callable[[], bool]) -> None:
    give_up = time.monotonic() + _PATIENCE_SECONDS
    while not moment():
        assert time.monotonic() < give_up
        time.sleep(_LOOK_SECONDS)


def test_a_killed_worker_is_none_of_the_users_business(shared: Run) -> None:
    process = shared.start()
    until(lambda: shared.ended() >= 2 or process.poll() is not None)
    os.kill(workers_of(process)[0], signal.SIGKILL)
    _, complaint = process.communicate(timeout=_PATIENCE_SECONDS)
    assert process.returncode == 0, complaint
    assert len(shared.trials()) == 8
    assert sum(summary_of(shared)["trials"].values()) == 8
    assert summary_of(shared)["trials"]["failed"] == 0


@pytest.mark.parametrize("least", [0, 3])
def test_workers_do_not_outlive_a_killed_driver(shared: Run, least: int) -> None:
    """Neither those that are being started nor those at work."""
    process = shared.start()
    until(lambda: len(workers_of(process)) == 2 and shared.ended() >= least)
    workers = workers_of(process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))
