"""Results of benchmarks: what is published anew takes the place of its like alone; curves are drawn of kept runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import publish
from benchmarks.curves import best_of, curves_of, drawn
from benchmarks.publish import publish_bins, publish_seeds, target
from benchmarks.samplers import unknown_loss
from space.choices import choices
from space.plan import REMOVED
from tests.space.test_laws import TRIMMED


def row(number: int, sampler: str, value: float) -> dict[str, object]:
    return {"bin": number, "sampler": sampler, "best": value}


def published(folder: Path) -> dict[str, list[dict[str, object]]]:
    found: dict[str, list[dict[str, object]]] = json.loads((folder / "some.json").read_text())
    return found


def test_a_sampler_s_rows_leave_the_others_of_its_bin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "RESULTS", tmp_path)
    one, two = (target(f"bin 3, {name}", 1.0, 2.0, at_least=False) for name in ("gap", "at 50 trials"))
    by = ("bin", "sampler")
    publish_bins("some", [row(3, "policy", 1.0), row(3, "swap", 2.0)], [one, two], by)
    publish_bins("some", [row(2, "policy", 5.0)], [], by)
    publish_bins("some", [{**row(3, "swap", 3.0), "seeds": 8}], [target("bin 3, gap", 3.0, 2.0, at_least=False)], by)
    found = published(tmp_path)
    assert [(r["bin"], r["sampler"], r["best"]) for r in found["rows"]] == [
        (2, "policy", 5.0),
        (3, "swap", 3.0),
        (3, "policy", 1.0),
    ]
    assert {(t["name"], t["met"]) for t in found["targets"]} == {("bin 3, gap", False), ("bin 3, at 50 trials", True)}


def test_a_bin_s_rows_take_the_place_of_the_bin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "RESULTS", tmp_path)
    publish_bins("some", [row(3, "a", 1.0), row(3, "b", 2.0)], [target("bin 3, gap", 1.0, 2.0, at_least=False)])
    publish_bins("some", [row(3, "c", 3.0)], [])
    assert published(tmp_path) == {"rows": [row(3, "c", 3.0)], "targets": []}


def test_seeds_are_published_beside_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "RESULTS", tmp_path)
    at_most = [target(f"seed {seed}, seconds", 0.3 * seed, 0.5, at_least=False) for seed in (1, 2, 12)]
    for seed, one in ((12, at_most[2]), (2, at_most[1]), (1, at_most[0])):
        publish_seeds("some", [{"seed": seed, "best": 1.0}], [one])
    publish_seeds("some", [{"seed": 1, "best": 2.0}], [target("seed 1, seconds", 0.9, 0.5, at_least=False)])
    found = published(tmp_path)
    assert [(row["seed"], row["best"]) for row in found["rows"]] == [(1, 2.0), (2, 1.0), (12, 1.0)]
    assert {(one["name"], one["value"]) for one in found["targets"]} == {
        ("seed 1, seconds", 0.9),
        ("seed 2, seconds", 0.6),
        ("seed 12, seconds", 0.3 * 12),
    }


def test_curves_are_of_each_sampler_s_longest_runs(tmp_path: Path) -> None:
    def keep(name: str, divergences: list[float | None]) -> None:
        (tmp_path / f"{name}.json").write_text(json.dumps({"divergences": divergences}))

    keep("bin3, tpe raw, seed 0, 3 trials", [None, 3.0, 4.0])
    keep("bin3, swap, seed 0, 2 trials", [0.1, 0.1])
    for seed in range(2):
        keep(f"bin3, swap, seed {seed}, 4 trials", [4.0, 2.0 + seed, 5.0, 1.0])
    keep("bin3, best known, 2 exchanges", [0.9, 0.7])
    keep("bin4, swap, seed 0, 1 trials", [9.0])
    found, known = curves_of(tmp_path), best_of(tmp_path)
    assert {number: list(curves) for number, curves in found.items()} == {3: ["swap", "tpe raw"], 4: ["swap"]}
    assert found[3]["swap"].tolist() == [[4.0, 2.0, 2.0, 1.0], [4.0, 3.0, 3.0, 1.0]]
    assert found[3]["tpe raw"] == pytest.approx(np.array([[np.nan, 3.0, 3.0]]), nan_ok=True)
    assert known == {3: 0.1, 4: 9.0}
    figure = drawn(found, known)
    medians = [list(trace.y) for trace in figure.data if trace.name == "swap, 1 to 2 seeds"]
    assert medians == [[4.0, 2.5, 2.5, 1.0], [9.0]]
    assert {trace.name for trace in figure.data} == {None, "swap, 1 to 2 seeds", "tpe raw, 1 seed", "best known"}
    assert {trace.name for trace in drawn(found, known, ["swap"]).data} == {None, "swap, 1 to 2 seeds", "best known"}


def test_a_loss_of_nothing_known_is_the_same_everywhere() -> None:
    loss, found = unknown_loss(TRIMMED), choices(TRIMMED)
    assert all(loss(name, options[-1]) == 0 for name, options in found.items())
    sublayers = [name for name in found if "." in name]
    assert {loss(name, REMOVED) for name in sublayers} == {1.0}
    for options in (found["encoder.0.ffn"], found["vocabulary"], found["embedding"]):
        assert all(0 <= loss(next(n for n in found if found[n] is options), option) <= 1 for option in options)
