"""The fidelity of cheap scores from the command line: every proxy, nothing done twice, one line for mistakes."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import spearmanr

import launch
from search.baselines import losses_of
from search.fidelity import HALVES, fidelity_plans, foreseen
from search.gates import FIRST_UTTERANCES, GATES, Gate
from search.kept import kept_fidelity
from search.rungs import LEARNT
from search.shares import LADDER
from space.bins import bin_range
from space.limits import Limits
from space.plan import Plan, removed_sublayers
from tests.tiny import load_tiny

PLANS = 8


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_every_proxy_is_ranked_and_nothing_is_scored_twice(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxies.fidelity._RESAMPLES", 50)
    for count in ("_RATES", "_WIDTHS", "_SIZES"):
        monkeypatch.setattr(f"proxies.sensitivity.{count}", 1)
    command = ["fidelity", "--bin", "1", "--heal-steps", "1", "--trial-heal-steps", "4", *words, "--plans"]

    def run(plans: int) -> dict[str, Any]:
        assert launch.main([*command, str(plans), "--json"]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    def files() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in Path("studies/bin1/fidelity").glob("plan-*.json")}

    found = run(PLANS)
    running = [f"{x}, {n}" for x in ("divergence", "loss", "chrF") for n in (4, 8, 16, 24, 48)]
    healed = ["healed 4 steps, chrF, 48", "healed 4 steps, divergence, 48"]
    proxies = ["weight error", "gradient", *running, *healed, HALVES]
    assert list(dict.fromkeys(row["proxy"] for row in found["table"])) == proxies
    assert len(found["table"]) == len(proxies) * 4
    assert [plan["kind"] for plan in found["plans"]] == ["random", "policy", "random", "near a start"] * (PLANS // 4)
    assert len({plan["key"] for plan in found["plans"]}) == PLANS
    first = files()
    assert len(first) == PLANS
    next(iter(first)).unlink()
    again = run(PLANS)
    assert {path for path in first if first[path] != files()[path]} == {next(iter(first))}
    for one, other in zip(found["plans"], again["plans"], strict=True):
        for part in ("cheap", "full"):
            scores = [{name: x["score"] for name, x in row[part].items()} for row in (one, other)]
            assert scores[0] == pytest.approx(scores[1], rel=1e-4)
    ranks = {(row["full"], row["proxy"], row["group"]): row["spearman"]["value"] for row in again["table"]}
    shared = dict(re.findall(r"\|(model|data) (\w+)", again["signature"]))
    kept = kept_fidelity(Path("studies/bin1"), again["range"], shared)
    assert kept is not None
    assert kept.plans == PLANS
    assert kept_fidelity(Path("studies/bin1"), "bin 4", shared) is None
    assert kept_fidelity(Path("studies/bin1"), again["range"], shared | {"model": "another"}) is None
    assert [(gate.proxy, gate.utterances) for gate in kept.gates] == [
        (proxy, (first, 48)) for proxy in GATES for first in FIRST_UTTERANCES
    ]
    assert {gate.survival for gate in kept.gates} <= set(LADDER)
    assert kept.gate == kept.with_shares(kept.gate)
    summary = kept.summary(Gate("loss", (16, 48)))
    assert list(summary["spearman"]) == ["loss, 16", "loss, 48", *healed]
    for proxy, found_ranks in summary["spearman"].items():
        assert list(found_ranks) == [ranks["healed", proxy, group] for group in ("all", "best quarter")]
    for plan in again["plans"]:
        for proxy in GATES:
            seconds = [plan["cheap"][f"{proxy}, {n}"]["seconds"] for n in (4, 8, 16, 24, 48)]
            assert seconds == sorted(seconds)
    before = files()

    def refused(*_: object) -> None:
        raise AssertionError("a run that only reads makes no pass for gradients")

    with monkeypatch.context() as patched:
        patched.setattr("search.workbench.squared_gradients", refused)
        run(PLANS)
    assert launch.main([*command, str(PLANS + 1)]) == 0
    said = capsys.readouterr().out
    assert "weight error" in said
    assert "a study that begins now has rungs of" in said
    assert before.items() <= files().items()
    assert len(files()) == PLANS + 1


def test_plans_are_distinct_and_inside_the_limits(tmp_path: Path) -> None:
    source = load_tiny(tmp_path)
    limits = Limits(source.layout, bin_range(2, source.layout.source_bytes), source.fixed_bytes)
    losses = losses_of(limits, source.vocabulary.coverage)
    plans = fidelity_plans(limits, losses, 20, seed=1)
    assert len({plan for _, plan in plans}) == 20
    assert all(limits.hold(plan) and not plan.heal.steps for _, plan in plans)
    assert plans == fidelity_plans(limits, losses, 20, seed=1)
    assert plans[:12] == fidelity_plans(limits, losses, 12, seed=1)
    assert plans != fidelity_plans(limits, losses, 20, seed=2)


def test_what_a_study_expects_of_a_plan_is_learnt_from_the_others(tmp_path: Path) -> None:
    source = load_tiny(tmp_path)
    limits = Limits(source.layout, bin_range(2, source.layout.source_bytes), source.fixed_bytes)
    plans = [plan for _, plan in fidelity_plans(limits, losses_of(limits, source.vocabulary.coverage), 40, seed=1)]
    rng = random.Random(0)

    def row(plan: Plan) -> dict[str, Any]:
        divergence, removed = rng.lognormvariate(-1, 1), removed_sublayers(plan)
        # what keeps less heals worse than it looks, and one healing is a draw
        loss = 20 * divergence * 1.5**removed * rng.lognormvariate(0, 0.3)
        scores = {"divergence, 8": divergence * rng.lognormvariate(0, 0.1), "divergence, 48": divergence}
        healed = {"healed 4 steps, chrF, 48": loss, "healed 4 steps, divergence, 48": loss / 20}
        cheap = {name: {"score": score, "seconds": 1.0} for name, score in {**scores, **healed}.items()}
        return {"bytes": limits.bytes_of(plan), "cheap": cheap}

    rows = [row(plan) for plan in plans]
    found = foreseen(plans, rows, source.layout)

    def scores(rows: list[dict[str, Any]], name: str) -> list[float]:
        return [one["cheap"][name]["score"] for one in rows]

    truth = scores(found, "healed 4 steps, chrF, 48")
    assert (
        spearmanr(scores(found, "expected loss, 48"), truth).statistic
        > spearmanr(scores(found, "divergence, 48"), truth).statistic
    )
    assert sum(scores(found, "healed, settled loss")) == pytest.approx(sum(truth))
    # of the plan's own healing it knows nothing
    rows[7]["cheap"]["healed 4 steps, chrF, 48"] = {"score": 99.0, "seconds": 1.0}
    again = foreseen(plans, rows, source.layout)
    assert scores(again, "expected loss, 48")[7] == pytest.approx(scores(found, "expected loss, 48")[7])
    assert scores(again, "expected loss, 48")[8] != scores(found, "expected loss, 48")[8]
    assert foreseen(plans[:LEARNT], rows[:LEARNT], source.layout) == rows[:LEARNT], "too few to learn from"


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--plans", "3"], "--plans 3: rank correlations need at least 8 plans"),
        (["--heal-steps", "-1"], "--heal-steps -1: not fewer than 0"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str], capsys: pytest.CaptureFixture[str], *, options: list[str], line: str
) -> None:
    assert launch.main(["fidelity", "--bin", "1", *words, *options]) == 2
    assert capsys.readouterr().err == f"tightfit: {line}\n"
    assert not Path("studies").exists()
