"""Searches whose plans other processes evaluate: the real pipeline of a tiny model, `--workers`."""

from __future__ import annotations

import json
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
from search.kept import RESULT, made_of
from search.opening import opened
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


def keep_fidelity(study: Path, model: Path, data: Path, first: int) -> None:
    """In the folder of a study of a small bin that begins then, with so many utterances in its first rung."""
    found = opened(SearchSettings(study="new", trials=1, bin=2, model=str(model), data=data))
    gate = {"proxy": "divergence", "utterances": [first, 48], "survival": [0.5, 0.5]}
    (study / "fidelity").mkdir(parents=True)
    text = {
        "range": found.limits.size_range.name,
        "signature": made_of(found.model, found.data),
        "plans": [],
        "table": [],
        "gate": gate,
        "gates": [gate, gate | {"utterances": [8, 48]}],
    }
    (study / "fidelity" / RESULT).write_text(json.dumps(text))


def test_workers_find_what_the_driver_finds(tmp_path: Path, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """On as many utterances as the study's fidelity says."""
    monkeypatch.chdir(tmp_path)
    for name, workers in (("alone", 1), ("together", 2)):
        keep_fidelity(tmp_path / "studies" / name, tmp_path, tmp_path, first=1)
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
        assert "|(1, 48) utterances" in other.user_attrs["signature"]
        assert one.user_attrs[DIVERGENCES][0] not in one.user_attrs[DIVERGENCES][1:]
    assert any(one.state == other.state == TrialState.COMPLETE and HEALED in other.user_attrs for one, other in pairs)
    assert list((tmp_path / "studies" / "together" / "workers").glob("worker-*.log"))


def test_ctrl_c_lets_the_trials_of_all_workers_end(tmp_path: Path, words: list[str]) -> None:
    command = [sys.executable, str(ROOT / "launch.py"), *words, "--trials", "40", "--workers", "2"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and ended(tmp_path) < 3:
        assert process.poll() is None, process.communicate()[1]
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
