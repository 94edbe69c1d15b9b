"""Benchmarks of samplers: what is left out is left out, studies go on, a best plan is the one that was known then."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from benchmarks.samplers import UnlearntPolicies
from benchmarks.searches import best_after
from benchmarks.studied import Studied
from models.loading import Source
from search.baselines import losses_of
from search.gates import Gate
from search.loop import suggest
from search.samplers import _FIRST_POLICIES, _tpe_of_policies, sampler_named
from space.bins import bin_range
from space.limits import Limits
from space.plan import Plan, removed_sublayers
from tests.search.stand import Stand
from tests.tiny import load_tiny


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return load_tiny(tmp_path_factory.mktemp("tiny"), "wide")


def test_without_learning_policies_are_the_first_ones_whatever_they_came_to(source: Source) -> None:
    limits = Limits(source.layout, bin_range(3, source.layout.source_bytes), source.fixed_bytes)
    losses = losses_of(limits, source.vocabulary.coverage)
    basis = list(losses)[-1]

    def proposed(sampler: optuna.samplers.BaseSampler, score: Callable[[Plan], float], trials: int) -> list[Plan]:
        study = optuna.create_study(sampler=sampler)
        found = []
        for _ in range(trials):
            trial = study.ask()
            found.append(suggest(trial, limits.layout, 0))
            trial.set_user_attr("divergences", [score(found[-1])])
            trial.set_user_attr("bytes", limits.bytes_of(found[-1]))
            trial.set_user_attr("removed", removed_sublayers(found[-1]))
            study.tell(trial, score(found[-1]))
        return found

    def unlearnt() -> UnlearntPolicies:
        return UnlearntPolicies(_tpe_of_policies, limits, 0, 0, basis=basis, loss=losses[basis])

    many = _FIRST_POLICIES + 8
    found = proposed(unlearnt(), lambda plan: 1.0 + removed_sublayers(plan), many)
    assert found == proposed(unlearnt(), lambda plan: 100.0 - removed_sublayers(plan), many)
    learnt = proposed(sampler_named("policy", limits, losses, 0, 0), lambda plan: 1.0 + removed_sublayers(plan), many)
    assert found[:_FIRST_POLICIES] == learnt[:_FIRST_POLICIES]
    assert found != learnt


def ended(number: int, loss: float | None, divergence: float = 1.0) -> FrozenTrial:
    """A trial that a rung stopped, where it has no loss."""
    values = None if loss is None else [loss, 1.0]
    state = TrialState.PRUNED if loss is None else TrialState.COMPLETE
    found = create_trial(state=state, values=values, user_attrs={"healed divergence": divergence})
    found.number = number
    return found


def test_the_best_after_so_many_trials_is_settled_by_those_alone() -> None:
    # plans as far as the lucky one lose 60
    found = [ended(0, 50.0, 0.3), ended(1, None), ended(2, 49.0, 0.9), ended(3, 60.0, 0.8), ended(4, 60.0, 0.85)]
    assert best_after(found, 2).number == 0
    assert best_after(found, 3).number == 2
    assert best_after(found, 5).number == 0


@pytest.mark.parametrize(("sampler", "grid"), [("policy", False), ("swap", True)])
def test_a_benchmark_s_study_goes_on(source: Source, tmp_path: Path, sampler: str, *, grid: bool) -> None:
    limits = Limits(source.layout, bin_range(2, source.layout.source_bytes), source.fixed_bytes)
    losses, stand = losses_of(limits, source.vocabulary.coverage), Stand(tmp_path)

    def trials(many: int, journal: str) -> list[Any]:
        study = Studied(sampler, 5_000, many, 4, Gate(survival=(1.0, 1.0)))
        made = study.made(limits, losses, stand, tmp_path / journal, str(study)).get_trials()  # type: ignore[arg-type]
        return [(trial.params, trial.user_attrs.get("narrowed"), trial.state) for trial in made]

    first = trials(12, "one.log")
    assert len(first) == 12
    longer = trials(24, "one.log")
    assert longer[:12] == first
    assert {params["heal_steps"] for params, _, _ in longer} == {0, 4}
    assert any(narrowed for _, narrowed, _ in longer) is grid
    assert all(state == TrialState.COMPLETE for _, _, state in longer)
