"""Searches whose plans other processes evaluate: the real pipeline of a tiny model, `--workers`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

import launch
from search.pools.choice import devices_of
from search.rungs import DIVERGENCES, HEALED
from search.settings import SearchSettings
from tests.tiny import write_roles, write_tiny

ROOT = Path(__file__).parents[2]
TRIALS = 12


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    given = ["--model", str(write_tiny(tmp_path)), "--data", str(write_roles(tmp_path, (2, 2, 2, 2)))]
    small = ["--heal-steps", "2", "--trial-heal-steps", "2", "--finalists", "1", "--recombined", "0"]
    return ["--bin", "2", *given, *small]


def trials_of(folder: Path, name: str) -> list[FrozenTrial]:
    return optuna.load_study(study_name=name, storage=f"sqlite:///{folder}/studies/{name}/study.db").trials


def test_workers_find_what_the_driver_finds(tmp_path: Path, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, workers in (("alone", 1), ("together", 2)):
        command = [*words, "--study", name, "--trials", str(TRIALS), "--workers", str(workers)]
        assert launch.main(command) == 0
    alone, together = trials_of(tmp_path, "alone"), trials_of(tmp_path, "together")
    assert len(together) == TRIALS
    assert all(trial.state.is_finished() for trial in together)
    begun = [trial.params for trial in alone].index
    pairs = [(alone[begun(trial.params)], trial) for trial in together[:4]]
    for one, other in pairs:
        # threads are shared out, and sums of floats come in another order
        assert one.user_attrs[DIVERGENCES] == pytest.approx(other.user_attrs[DIVERGENCES], rel=1e-4)
    assert any(one.state == other.state == TrialState.COMPLETE and HEALED in other.user_attrs for one, other in pairs)
    assert list((tmp_path / "studies" / "together" / "workers").glob("worker-*.log"))


def test_ctrl_c_lets_the_trials_of_all_workers_end(tmp_path: Path, words: list[str]) -> None:
    command = [sys.executable, str(ROOT / "launch.py"), *words, "--trials", "40", "--workers", "2"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and ended(tmp_path) < 3:
        assert process.poll() is None
        time.sleep(0.05)
    # as a terminal does: to everyone
    os.killpg(process.pid, signal.SIGINT)
    _, complaint = process.communicate(timeout=120)
    assert process.returncode == 0, complaint
    trials = trials_of(tmp_path, "bin2")
    assert 3 <= sum(trial.state.is_finished() for trial in trials) < 40
    assert not [trial for trial in trials if trial.state in (TrialState.RUNNING, TrialState.FAIL)]
    assert (tmp_path / "studies" / "bin2" / "summary.json").exists()


def ended(folder: Path) -> int:
    try:
        return sum(trial.state.is_finished() for trial in trials_of(folder, "bin2"))
    except Exception:
        # not made yet
        return 0


def test_gpus_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = SearchSettings(study="new", trials=1, bin=1, workers=3, device="cpu")
    assert devices_of(settings) == ["cpu"] * 3
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda **_: True)
    for device, shared in (("auto", ["cuda:0", "cuda:1", "cuda:0"]), ("cuda:1", ["cuda:1"] * 3)):
        settings = SearchSettings(study="new", trials=1, bin=1, workers=3, device=device)
        assert devices_of(settings) == shared
