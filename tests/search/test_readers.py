"""A decoder-only model with text examples is searched, stored, weighed and evaluated like one that hears."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import launch
from compress.checkpoint import folder_bytes, load_checkpoint
from tests.tiny import write_roles, write_tiny_llama, write_tiny_qwen2


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus without audio."""
    return write_roles(tmp_path_factory.mktemp("texts"), (4, 4, 2, 2), ("id", "talk", "en", "de", "zh"))


@pytest.mark.parametrize("write", [write_tiny_qwen2, write_tiny_llama])
def test_a_decoder_only_model_is_searched_end_to_end(
    write: Callable[[Path], Path],
    texts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    model = write(tmp_path / "model")
    small = ("--heal-steps", "2", "--trial-heal-steps", "2", "--finalists", "1")
    words = ["--bin", "1", "--model", str(model), "--data", str(texts), *small]
    pins = ["--pin", "decoder.first:keep", "--pin", "embedding:bits>=4"]
    assert launch.main([*words, *pins, "--trials", "6"]) == 0
    summary = json.loads((tmp_path / "studies" / "bin1" / "summary.json").read_text())
    assert sum(summary["trials"].values()) == 6
    assert summary["out_of_bin_trials"] == 0
    champion = tmp_path / summary["champion"]["path"]
    assert summary["least_bytes"] <= folder_bytes(champion) < summary["bound_bytes"]
    _, plan = load_checkpoint(champion)
    assert plan.encoder == ()
    assert plan.decoder[0].attention.kept
    assert plan.decoder[0].ffn.kept
    assert plan.embedding.bits >= 4
    capsys.readouterr()
    assert launch.main(["size", str(champion), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bin"] == 1
    assert launch.main(["evaluate", str(champion), "--data", str(texts), "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)["scores"]
    for direction, row in summary["champion"]["scores"].items():
        assert {metric: scores[direction][metric] for metric in row} == row
    assert launch.main(["evaluate", str(model), "--data", str(texts)]) == 0
    assert launch.main([*words, "--trials", "7"]) == 2
    assert "pins was" in capsys.readouterr().err


def test_texts_are_no_use_to_a_model_that_hears(texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.main(["--bin", "3", "--data", str(texts)]) == 2
    assert "no column audio" in capsys.readouterr().err
