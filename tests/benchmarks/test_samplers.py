"""What the samplers' benchmark leaves out of the default is left out."""

from __future__ import annotations

from collections.abc import Callable

import optuna
import pytest

from benchmarks.samplers import UnlearntPolicies
from models.loading import Source
from search.baselines import losses_of
from search.loop import suggest
from search.samplers import _FIRST_POLICIES, _tpe_of_policies, sampler_named
from space.bins import bin_range
from space.limits import Limits
from space.plan import Plan, removed_sublayers
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
