"""One plan healed on more and on fewer recombined utterances, on a tiny model that reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import benchmarks.recombining
from benchmarks.recombining import Ward, row_of, ward
from search.baselines import least_loss_plan, losses_of
from search.finalists import heal_in_full
from search.settings import SearchSettings
from space.bins import bin_range
from space.fill import filled
from space.limits import Limits
from space.plan import Heal
from tests.tiny import write_roles, write_tiny_qwen2


@pytest.fixture(scope="module")
def at_work(tmp_path_factory: pytest.TempPathFactory) -> Ward:
    folder = tmp_path_factory.mktemp("recombining")
    (folder / "model").mkdir()
    (folder / "data").mkdir()
    write_tiny_qwen2(folder / "model")
    write_roles(folder / "data", (4, 4, 2, 2), ("id", "talk", "en", "de", "zh"))
    return ward(
        SearchSettings(
            "r", 1, bin=2, model=str(folder / "model"), data=folder / "data", bank=folder / "studies" / "bank"
        )
    )


def test_a_plan_fills_its_bin_and_is_the_allocators(at_work: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    def prior(workbench: Any, limits: Any, _console: Any) -> dict[str, Any]:
        return {"sensitivities": losses_of(limits, workbench.source.vocabulary.coverage)["prior values"]}

    monkeypatch.setattr(benchmarks.recombining, "measured_losses", prior)
    source = at_work.found.source
    limits = Limits(source.layout, bin_range(2, source.layout.source_bytes), source.fixed_bytes)
    plan, losses = at_work.plan(2), prior(at_work.workbench, limits, None)
    assert limits.hold(plan)
    assert limits.bytes_of(plan) >= 0.995 * limits.size_range.bound_bytes
    assert plan == filled(least_loss_plan(limits, losses["sensitivities"]), limits)


def test_healings_differ_by_what_is_healed_on_and_are_kept(
    at_work: Ward, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    lessons, seeds = list[int](), list[int]()

    def healed(workbench: Any, plan: Any, coach: Any) -> Any:
        lessons.append(len(workbench.bank.curriculum.lessons))
        seeds.append(coach.seed)
        return heal_in_full(workbench, plan, coach)

    monkeypatch.setattr(benchmarks.recombining, "heal_in_full", healed)
    source = at_work.found.source
    limits = Limits(source.layout, bin_range(2, source.layout.source_bytes), source.fixed_bytes)
    losses = losses_of(limits, source.vocabulary.coverage)["prior values"]
    plan = least_loss_plan(limits, losses, Heal(2))
    none = at_work.healed(2, plan, 0, seed=0)
    more = at_work.healed(2, plan, 3, seed=0)
    assert lessons[0] < lessons[1] <= 4 * lessons[0]
    assert none["divergence"] > 0
    assert 0 <= none["chrF"] <= 100
    assert at_work.healed(2, plan, 3, seed=0) == more
    assert at_work.healed(2, plan, 0, seed=0) == none
    assert len(lessons) == 2
    at_work.healed(2, plan, 0, seed=1)
    assert seeds == [0, 0, 1]


def test_a_row_is_the_mean_of_its_seeds() -> None:
    healings = [{"chrF": 60.0, "divergence": 0.2}, {"chrF": 64.0, "divergence": 0.1}]
    row = row_of(4, 1, 200, healings)
    assert (row["chrF2 on select"], row["its deviation"], row["seeds"]) == (62.0, 2.8, 2)
    assert row["divergence on select"] == 0.15
    assert row_of(4, 1, 200, healings[:1])["its deviation"] == ""
