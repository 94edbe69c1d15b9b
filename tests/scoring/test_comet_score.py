"""COMET beside comet-score, on a tiny model, in the real environment.

TIGHTFIT_COMET_ENV=FOLDER python -m pytest -m slow tests/scoring/test_comet_score.py
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest

from scoring.comet import Comet
from scoring.comet_env import VARIABLE, comet_python
from space.errors import UserError

ENVIRONMENT = Path(os.environ.get(VARIABLE) or "not named")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not ENVIRONMENT.is_dir(), reason=f"{VARIABLE} names no environment"),
]

# More than a batch, of different lengths, and an empty one; comet-score strips lines.
SOURCES = [" ".join(["The model is small."] * (1 + n % 5)) for n in range(40)]
REFERENCES = [" ".join(["Das Modell ist klein."] * (1 + n % 4)) for n in range(40)]
HYPOTHESES = [" ".join(["模型很小。", "Es übersetzt Vorträge."][n % 2 :] * (n % 7)) + " " for n in range(40)]
QUIET = {"TRANSFORMERS_OFFLINE": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    script = Path(__file__).with_name("tiny_comet.py")
    subprocess.run(
        [comet_python(ENVIRONMENT), script, folder], check=True, capture_output=True, env={**os.environ, **QUIET}
    )
    return folder


@pytest.fixture(autouse=True)
def _offline_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)


def comet_score(model: Path, folder: Path) -> tuple[list[float], str]:
    """Scores of segments, and the system's as it is printed."""
    for name, lines in (("src", SOURCES), ("mt", HYPOTHESES), ("ref", REFERENCES)):
        (folder / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    command = [ENVIRONMENT / "bin" / "comet-score", "-s", "src", "-t", "mt", "-r", "ref", "--gpus", "0", "--quiet"]
    command += ["--model", model / "checkpoints" / "model.ckpt", "--to_json", "scores.json"]
    said = subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder).stdout
    segments = [segment["COMET"] for segment in json.loads((folder / "scores.json").read_text())["mt"]]
    printed = next(line for line in said.splitlines() if line.startswith("mt\tscore:"))
    return segments, printed.rpartition(" ")[2]


def test_scores_are_comet_scores(tiny: Path, tmp_path: Path) -> None:
    segments, system = comet_score(tiny / "model", tmp_path)
    with Comet(str(tiny / "model"), ENVIRONMENT) as comet:
        ours = comet.score(SOURCES, HYPOTHESES, REFERENCES)
        assert comet.score(SOURCES, HYPOTHESES, REFERENCES) == ours
        signature = comet.signature
    assert ours.segments == tuple(segments)
    assert f"{ours.system:.4f}" == system
    assert ours.system == pytest.approx(sum(segments) / len(segments), abs=1e-9)
    assert len(set(segments)) > 10
    assert max(segments) - min(segments) > 0.01
    digits = hashlib.sha256((tiny / "model" / "checkpoints" / "model.ckpt").read_bytes()).hexdigest()[:16]
    assert signature.startswith(f"COMET|model:model|hash:{digits}|precision:float16|device:cpu|batch:16|version:")
    assert "unbabel-comet 2.2.7, torch 2." in signature


def test_nothing_in_a_checkpoint_is_run(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with Comet(str(tiny / "unsafe"), ENVIRONMENT) as comet, pytest.raises(UserError) as raised:
        comet.score(SOURCES, HYPOTHESES, REFERENCES)
    assert "Weights only load failed" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not (tiny / "ran").exists()


def test_a_damaged_checkpoint_and_a_model_that_is_not_cached_are_one_line(tiny: Path) -> None:
    damaged = tiny / "damaged"
    (damaged / "checkpoints").mkdir(parents=True)
    (damaged / "hparams.yaml").write_bytes((tiny / "model" / "hparams.yaml").read_bytes())
    whole = (tiny / "model" / "checkpoints" / "model.ckpt").read_bytes()
    (damaged / "checkpoints" / "model.ckpt").write_bytes(whole[: len(whole) // 2])
    for model in (str(damaged), "Unbabel/no-such-model"):
        with Comet(model, ENVIRONMENT) as comet, pytest.raises(UserError) as raised:
            comet.score(SOURCES, HYPOTHESES, REFERENCES)
        assert str(raised.value).startswith(f"COMET model {model}: ")
        assert "\n" not in str(raised.value)
