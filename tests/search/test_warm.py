"""Warm starts: what another study found, inside this one's limits, and refusals in one line."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

import launch
from models.loading import Source
from search.baselines import few_starts, losses_of, policy_attribute, starts
from search.warm import KIND, warm_starts
from space.bins import bin_range
from space.genes import distributions, encode, repair
from space.limits import Limits
from space.plan import Heal, Plan, uniform_plan
from space.policy import multipliers
from space.rates import WHOLE
from tests.tiny import load_tiny

HEAL = Heal(4)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return load_tiny(tmp_path_factory.mktemp("tiny"))


def limits_of(source: Source, number: int) -> Limits:
    return Limits(source.layout, bin_range(number, source.layout.source_bytes), source.fixed_bytes)


def trial_of(source: Source, plan: Plan, loss: float, **attributes: object) -> FrozenTrial:
    return create_trial(
        values=[loss, 1.0],
        params=encode(plan, source.layout),
        distributions=distributions(source.layout, HEAL.steps),
        user_attrs=attributes,
        state=TrialState.COMPLETE,
    )


def test_plans_are_made_to_fit_and_policies_made_anew_and_learnt_from(source: Source) -> None:
    above, limits = limits_of(source, 1), limits_of(source, 2)
    losses = losses_of(limits, source.vocabulary.coverage)
    policy = {name: low / 2 for name, (low, _) in multipliers(source.layout).items()}
    attribute = policy_attribute(list(losses)[-1])
    plans = [repair(uniform_plan(source.layout, WHOLE, HEAL), above, seed) for seed in (1, 2)]
    trials = [trial_of(source, plans[0], 10.0, **{attribute: policy}), trial_of(source, plans[1], 20.0)]
    found = warm_starts("first", trials, limits, losses, HEAL, seed=0)
    assert [start.kind for start in found] == [KIND, KIND]
    assert all(limits.hold(start.plan) and start.plan.heal == HEAL for start in found)
    assert [dict(start.kept) for start in found] == [{attribute: policy}, {}]
    assert limits.bytes_of(found[0].plan) > 0.95 * limits.size_range.bound_bytes, "the allocator fills the bound"
    assert warm_starts("first", trials, limits, losses, HEAL, seed=0) == found
    assert not warm_starts("first", [], limits, losses, HEAL, seed=0)
    again = [*trials, trial_of(source, plans[0], 30.0, **{attribute: policy})]
    assert len(warm_starts("first", again, limits, losses, HEAL, seed=0)) == 2
    many = [trial_of(source, repair(uniform_plan(source.layout, WHOLE, HEAL), above, seed), seed) for seed in range(30)]
    assert len(warm_starts("first", many, limits, losses, HEAL, seed=0)) == 8
    assert len(warm_starts("first", many, limits, losses, HEAL, seed=0, of_each=True)) == 2
    kinds = [start.kind for start in starts(limits, losses, HEAL, 40, found)]
    assert kinds == sorted(kinds, key=["baseline", "allocator", KIND, "narrowed"].index)


def test_a_warm_start_that_is_a_first_plan_anyway_is_tried_once(source: Source) -> None:
    """The other study's allocator had its own plan of the policy of zeros: here it leads to this study's."""
    limits = limits_of(source, 2)
    losses = losses_of(limits, source.vocabulary.coverage)
    first = [start for start in starts(limits_of(source, 1), losses, HEAL, 40) if start.kind == "allocator"]
    trials = [trial_of(source, start.plan, 9.0, **start.kept) for start in first if start.plan.heal == HEAL]
    warm = warm_starts("first", trials, limits, losses, HEAL, seed=0)
    assert len(warm) == 1
    for begin in (starts, few_starts):
        found = begin(limits, losses, HEAL, 40, [*warm, *warm])
        assert KIND not in {start.kind for start in found}
        assert warm[0].plan in {start.plan for start in found}


def test_of_a_study_over_all_sizes_the_range_counts_whose_plans_fill_the_nearest_bound(source: Source) -> None:
    """Not the one that happens to have a plan of that size."""
    limits = limits_of(source, 3)
    losses, bound = losses_of(limits, source.vocabulary.coverage), limits.size_range.bound_bytes
    plan = repair(uniform_plan(source.layout, WHOLE, HEAL), limits, 1)
    sizes = (("bin 1", 4 * bound), ("bin 1", bound), ("bin 3", 0.9 * bound))
    trials = [trial_of(source, plan, 9.0, range=name) for name, _ in sizes]
    for trial, (_, size) in zip(trials, sizes, strict=True):
        trial.number, trial.values = trials.index(trial), [9.0, size]
    assert [start.name for start in warm_starts("all", trials, limits, losses, HEAL, seed=0)] == ["all, trial 2"]


@pytest.fixture
def first(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command of a study beside one of bin 1 that has ended."""
    monkeypatch.chdir(tmp_path)
    command = ["--heal-steps", "0", "--trial-heal-steps", "0", "--finalists", "1", *words]
    assert launch.main(["--bin", "1", "--trials", "8", "--study", "first", *command]) == 0
    return command


def test_a_study_begins_with_the_best_of_another(first: list[str]) -> None:
    assert launch.main(["--bin", "2", "--trials", "16", "--study", "second", "--warm-start", "first", *first]) == 0
    study = optuna.load_study(storage="sqlite:///studies/second/study.db", study_name="second")
    warm = [trial for trial in study.trials if KIND in trial.user_attrs]
    assert warm
    assert warm[0].user_attrs[KIND].startswith("first, trial ")
    ended = len(study.trials)
    assert launch.main(["--bin", "2", "--trials", "16", "--study", "second", "--warm-start", "first", *first]) == 0
    assert len(optuna.load_study(storage=study._storage, study_name="second").trials) == ended


def test_what_is_no_warm_start_is_refused_in_one_line(first: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()

    def said(name: str, *more: str) -> str:
        assert launch.main(["--bin", "2", "--study", "second", "--warm-start", name, *first, *more]) == 2
        assert not Path("studies/second").exists()
        return capsys.readouterr().err

    assert said("third") == (
        "tightfit: --warm-start third: no study studies/third/study.db; give the name of a study in studies\n"
    )
    assert said("second") == "tightfit: --warm-start second: is this study itself; give the name of another\n"
    assert said("first", "--rates", "coded") == (
        'tightfit: --warm-start first: its plans are of other settings (rates was "packed", now "coded"); '
        "give another, or none\n"
    )
    assert 'langs was ["en-de", "en-zh"], now ["en-de"]' in said("first", "--langs", "en-de")
    assert said("third", "--storage", "sqlite:///studies/first/study.db").startswith(
        "tightfit: --warm-start third: no study of this name in sqlite:///studies/first/study.db"
    )
