"""The bank ahead of a search: every option once, continued where it was killed, and trials that make nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import launch
from corpora.roles import BUNDLED
from tests.tiny import write_tiny_qwen2


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A tiny model that reads, and the first utterances of each role."""
    folder = tmp_path_factory.mktemp("bank")
    (folder / "model").mkdir()
    (folder / "data").mkdir()
    for role, count in {"calibrate": 4, "proxy": 4, "select": 2, "report": 2}.items():
        pq.write_table(pq.read_table(BUNDLED / f"{role}.parquet").slice(0, count), folder / "data" / f"{role}.parquet")
    return ["--model", str(write_tiny_qwen2(folder / "model")), "--data", str(folder / "data"), "--rates", "packed"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_bank_is_made_once_and_goes_on_where_it_was_stopped(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    def made() -> dict[str, int]:
        assert launch.main(["bank", *words, "--json"]) == 0
        found: dict[str, int] = json.loads(capsys.readouterr().out)
        return found

    first = made()
    assert first["made"] > first["options"], "two pieces of a sublayer"
    files = sorted(Path("studies/bank").glob("*/pieces/*.safetensors"))
    assert len(files) == first["made"]
    assert first["bytes"] == sum(file.stat().st_size for file in files)
    for file in files[::3]:
        file.unlink()
    again = made()
    assert again["made"] == len(files[::3])
    assert again["bytes"] == first["bytes"]
    assert made()["made"] == 0


def test_a_search_finds_what_another_one_made(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    def search(study: str) -> list[float]:
        assert (
            launch.main(["--bin", "1", "--trials", "6", "--study", study, "--heal-steps", "0", *words, "--json"]) == 0
        )
        summary = json.loads(capsys.readouterr().out)
        return [summary["champion"]["select_chrf"], summary["champion"]["bytes_on_disk"]]

    first = search("one")
    files = {file: file.stat().st_mtime_ns for file in Path("studies/bank").glob("*/pieces/*.safetensors")}
    assert files
    assert search("other") == first
    assert set(Path("studies/bank").glob("*/pieces/*.safetensors")) == set(files)


def test_a_bank_that_is_a_file_is_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("bank").write_text("")
    assert launch.main(["bank", *words, "--bank", "bank"]) == 2
    assert capsys.readouterr().err == "tightfit: --bank bank: is a file; give a folder\n"
