"""The plans a study starts with: inside the limits, each once, at most a tenth of the trials from the grid."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from models.loading import Source
from search.baselines import losses_of, narrowed, starts
from search.run import _starts
from search.samplers import SAMPLER_NAMES
from search.settings import SearchSettings
from space.bins import bin_range
from space.limits import Limits
from space.plan import Heal, Plan
from tests.tiny import TINY, load_tiny


@pytest.fixture(scope="module", params=TINY)
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Source:
    folder: Path = tmp_path_factory.mktemp(request.param)
    return load_tiny(folder, request.param)


def _limits(source: Source, number: int) -> Limits:
    return Limits(source.layout, bin_range(number, source.layout.source_bytes), source.fixed_bytes)


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize(("trials", "steps"), [(5, 4), (60, 4), (200, 4), (60, 0)])
def test_starts_are_inside_the_limits_and_come_once(source: Source, number: int, trials: int, steps: int) -> None:
    limits = _limits(source, number)
    found = starts(limits, losses_of(limits, source.vocabulary.coverage), Heal(steps), trials)
    assert all(limits.hold(start.plan) for start in found)
    assert len({(start.kind, start.name) for start in found}) == len(found)
    grid = [start.plan for start in found if start.kind == "narrowed"]
    assert len(set(grid)) == len(grid) <= trials // 10
    ungridded = starts(limits, losses_of(limits, source.vocabulary.coverage), Heal(steps), trials, grid=False)
    assert ungridded == [start for start in found if start.kind != "narrowed"]
    assert [start.kind for start in found] == sorted(
        (start.kind for start in found), key=["baseline", "allocator", "narrowed"].index
    )


def test_the_best_guess_comes_first_where_trials_are_too_few_for_all(source: Source) -> None:
    limits = _limits(source, 2)
    losses = losses_of(limits, source.vocabulary.coverage, lambda name, option: 0.0)
    assert list(losses)[-1] == "sensitivities"
    every = starts(limits, losses, Heal(4), 60)
    whole = [start for start in every if start.kind != "narrowed"]
    for trials in range(1, len(whole)):
        found = starts(limits, losses, Heal(4), trials)
        assert found[0].name == "sensitivities, 4 heal steps"
        assert [start for start in found if start != found[0]] == [start for start in whole if start != found[0]]
    assert starts(limits, losses, Heal(4), len(whole))[0].kind == "baseline"
    guessed = losses_of(limits, source.vocabulary.coverage)
    assert starts(limits, guessed, Heal(4), 1)[0].kind == "baseline"


def test_one_range_s_policies_are_not_behind_a_grid(tmp_path: Path) -> None:
    source = load_tiny(tmp_path, "wide")
    limits = _limits(source, 2)
    losses = losses_of(limits, source.vocabulary.coverage)

    def kinds(sampler: str, ranges: int) -> set[str]:
        settings = SearchSettings(study="one", trials=200, bin=2, sampler=sampler)
        job: Any = SimpleNamespace(settings=settings, ranges=[limits] * ranges, warm=[])
        return {start.kind for start in _starts(job, limits, losses)}

    policies = {"policy", "policy-tpe", "policy-gp", "allocator"}
    for sampler in SAMPLER_NAMES:
        grid = set() if sampler in policies else {"narrowed"}
        assert kinds(sampler, 1) == {"baseline", "allocator"} | grid, sampler
    assert kinds("policy", 2) == {"baseline", "allocator", "narrowed"}


def test_the_grid_narrows_what_it_leaves(source: Source) -> None:
    def widths(plan: Plan) -> set[float]:
        towers = source.layout.towers
        return {x.ffn.kept / tower.ffn for tower in towers for x in plan.layers(tower) if x.ffn.kept}

    plans = dict(narrowed(_limits(source, 2), Heal(4)))
    assert len(plans) > 3
    for name, plan in plans.items():
        encoder, _, decoder = name.split(" middle")[0].split(" ")
        share = int(name.split(", ")[1].split("/")[0]) / 16
        assert all(abs(width - share) < 0.01 for width in widths(plan))
        gone = sum(not layer.attention.kept and not layer.ffn.kept for layer in plan.decoder)
        assert gone == min(int(decoder), len(plan.decoder) - 1)
        if source.layout.encoder:
            heard = sum(not layer.attention.kept and not layer.ffn.kept for layer in plan.encoder)
            assert heard == min(int(encoder), len(plan.encoder) - 1)
