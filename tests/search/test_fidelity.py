"""The fidelity of cheap scores from the command line: every proxy, nothing done twice, one line for mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import launch

PLANS = 8


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_every_proxy_is_ranked_and_nothing_is_scored_twice(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["fidelity", "--bin", "1", "--plans", str(PLANS), "--heal-steps", "1", *words]
    assert launch.main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    proxies = ["weight error", "gradient", *(f"{x}, {n}" for x in ("divergence", "loss", "chrF") for n in (8, 48))]
    assert list(dict.fromkeys(row["proxy"] for row in found["table"])) == proxies
    assert len(found["table"]) == len(proxies) * 4
    assert [plan["kind"] for plan in found["plans"]] == ["random"] * 4 + ["near the front"] * 4
    files = {path: path.stat().st_mtime_ns for path in Path("studies/bin1/fidelity").glob("plan-*.json")}
    assert len(files) == PLANS
    assert all(row["full"][full]["score"] <= 100 for row in found["plans"] for full in ("unhealed", "healed"))
    gone = Path("studies/bin1/fidelity/plan-3.json")
    gone.unlink()
    assert launch.main(command) == 0
    assert "weight error" in capsys.readouterr().out
    again = {path: path.stat().st_mtime_ns for path in Path("studies/bin1/fidelity").glob("plan-*.json")}
    assert {path for path in files if files[path] != again[path]} == {gone}
    scores = json.loads(gone.read_text())["cheap"]
    assert {name: x["score"] for name, x in scores.items()} == pytest.approx(
        {name: x["score"] for name, x in found["plans"][3]["cheap"].items()}, rel=1e-5
    )


def test_few_plans_are_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.main(["fidelity", "--bin", "1", "--plans", "3", *words]) == 2
    assert capsys.readouterr().err == "tightfit: --plans 3: rank correlations need at least 8 plans\n"
    assert not Path("studies").exists()
