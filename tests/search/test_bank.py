"""The bank ahead of a search: every option once, continued where it was killed, and trials that make nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import launch

UNHEALED = ("--heal-steps", "0", "--trial-heal-steps", "0")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_bank_is_made_once_and_goes_on_where_it_was_stopped(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for count in ("_RATES", "_WIDTHS", "_SIZES"):
        monkeypatch.setattr(f"proxies.sensitivity.{count}", 2)

    def made() -> dict[str, int]:
        assert launch.main(["bank", *words, "--json"]) == 0
        found: dict[str, int] = json.loads(capsys.readouterr().out)
        return found

    first = made()
    assert first["made"] > first["options"], "two pieces of a sublayer"
    files = sorted(Path("studies/bank").glob("*/pieces/*.safetensors"))
    assert len(files) == first["made"]
    (values,) = Path("studies/bank").glob("*/sensitivities-*.json")
    measured = json.loads(values.read_text())
    assert first["sensitivities"] == sum(map(len, measured.values()))
    assert min(value for found in measured.values() for value in found.values()) > -1e-3
    assert measured["decoder.0.ffn"]["0"] > measured["decoder.0.ffn"]["3g64"]
    errors = {file.stem: json.loads(file.read_text()) for file in Path("studies/bank").glob("*/errors-*.json")}
    assert first["errors"] == sum(map(len, errors.values()))
    for found in errors.values():
        assert len(found) >= first["options"], "and the source's own"
        assert min(found.values()) >= 0
    assert first["bytes"] == sum(file.stat().st_size for file in files)
    for file in files[::3]:
        file.unlink()
    values.write_text(json.dumps({name: found for name, found in measured.items() if name.startswith("decoder")}))
    again = made()
    # sublayers with others removed behind them are asked for by sensitivities alone, which are there for the decoder
    assert len(files[::3]) - 4 <= again["made"] <= len(files[::3])
    assert json.loads(values.read_text()) == {name: pytest.approx(found) for name, found in measured.items()}
    assert made()["made"] == 0


def test_a_search_finds_what_another_one_made(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    def search(study: str) -> list[float]:
        assert launch.main(["--bin", "1", "--trials", "6", "--study", study, *UNHEALED, *words, "--json"]) == 0
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
