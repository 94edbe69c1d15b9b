"""Benchmarks of samplers: what is left out is left out, studies go on, a best plan is the one that was known then."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from benchmarks.recipe import Recipe
from benchmarks.samplers import Bench, UnlearntPolicies, healed_loss, known_row, with_best_known
from benchmarks.samplers import targets_of as benchmark_targets
from benchmarks.searches import best_after, losses_anew, row_of, targets_of
from models.loading import Source
from proxies.marginals import measure_marginals
from search.baselines import ALLOCATED, few_starts, least_loss_plan, losses_of, policy_attribute
from search.gates import Gate
from search.loop import suggest
from search.samplers import _FIRST_POLICIES, _tpe_of_policies, trial_seed
from search.steps import Steps
from search.workbench import Workbench
from space.errors import UserError
from space.genes import HEAL_STEPS, decode
from space.limits import Limits
from space.plan import NO_HEAL, Plan, removed_sublayers
from tests.scores import alone
from tests.search.stand import STOPS, Stand
from tests.search.test_samplers import limits_of, run
from tests.tiny import load_tiny


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return load_tiny(tmp_path_factory.mktemp("tiny"), "wide")


def test_without_learning_policies_are_the_first_ones_whatever_they_came_to(source: Source) -> None:
    limits, many = limits_of(source), _FIRST_POLICIES + 8
    losses = losses_of(limits, source.vocabulary.coverage)
    basis = list(losses)[-1]

    def unlearnt(score: Callable[[Limits, Plan], float]) -> list[Plan]:
        sampler = UnlearntPolicies(_tpe_of_policies, limits, 0, HEAL_STEPS, basis=basis, loss=losses[basis])
        return run(limits, source, "policy", many, score=score, sampler=sampler)[1]

    def removed(_limits: Limits, plan: Plan) -> float:
        return 1.0 + removed_sublayers(plan)

    found = unlearnt(removed)
    assert found == unlearnt(lambda limits, plan: 101.0 - removed(limits, plan))
    learnt = run(limits, source, "policy", many, score=removed)[1]
    assert found[:_FIRST_POLICIES] == learnt[:_FIRST_POLICIES]
    assert found != learnt


def test_without_sensitivities_first_plans_know_nothing_of_them(source: Source) -> None:
    limits = limits_of(source)
    prior = losses_of(limits, source.vocabulary.coverage)["prior values"]
    losses = {"prior values": prior, "sensitivities": lambda name, option: prior(name, option) * (1 + len(name) % 3)}
    at_work = Bench(3, limits, losses, cast(Workbench, None), "")

    def allocated(name: str) -> list[Plan]:
        return [start.plan for start in at_work.first(name, 200) if start.kind == ALLOCATED]

    own = [least_loss_plan(limits, loss) for loss in losses.values()]
    assert allocated("policy") == own
    assert len(allocated("policy without sensitivities")) == 1
    assert not {*allocated("policy without sensitivities")} & {*own}


def test_a_part_that_no_sampler_can_do_without_is_refused(source: Source) -> None:
    limits = limits_of(source)
    at_work = Bench(3, limits, losses_of(limits, source.vocabulary.coverage), cast(Workbench, None), "")
    steps = Steps(limits, NO_HEAL, lambda plan: measure_marginals(plan, limits, alone(lambda _: 1.0)), 1)
    with pytest.raises(UserError, match="policy without prior: not one of"):
        at_work._sampler("policy without prior", 0, steps)


def test_without_exchanges_policies_are_in_their_place(source: Source) -> None:
    limits = limits_of(source)
    losses = losses_of(limits, source.vocabulary.coverage)
    at_work = Bench(3, limits, losses, cast(Workbench, None), "")
    policy = policy_attribute(list(losses)[-1])

    def policies(name: str) -> list[bool]:
        # where nothing changes anything there is no step
        nowhere = Steps(limits, NO_HEAL, lambda plan: measure_marginals(plan, limits, alone(lambda _: 1.0)), 1)
        study = optuna.create_study(sampler=at_work._sampler(name, 0, nowhere))
        for _ in range(12):
            trial = study.ask()
            plan = suggest(trial, limits.layout, 0)
            for attribute, value in (("divergences", [1.0]), ("bytes", limits.bytes_of(plan)), ("removed", 0)):
                trial.set_user_attr(attribute, value)
            study.tell(trial, 1.0)
        return [policy in trial.user_attrs for trial in study.trials]

    assert all(policies("policy without exchanges"))
    assert not all(policies("policy"))


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


def test_healed_losses_are_kept_by_plan_seed_and_version(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.samplers.FOLDER", tmp_path)
    healed: list[int] = []

    def worth(_plan: Plan, _candidate: object, seed: int) -> tuple[float, float]:
        healed.append(seed)
        return 10 / (3 + seed), 0.0

    limits = limits_of(source)
    small, large = (
        one.plan for one in few_starts(limits, losses_of(limits, source.vocabulary.coverage), NO_HEAL, 4)[:2]
    )

    def loss(plan: Plan, seed: int, made_of: str = "this version", number: int = 3) -> float:
        workbench = SimpleNamespace(worth=worth, assembler=SimpleNamespace(assembled=lambda plan: plan))
        at_work: Any = SimpleNamespace(number=number, made_of=made_of, workbench=workbench)
        return healed_loss(at_work, plan, seed)

    assert loss(small, 0) == loss(small, 0) == 3.33333
    assert healed == [0]
    assert [loss(small, 1), loss(large, 1), loss(small, 1, "the next"), loss(small, 1, number=4)] == [2.5] * 4
    assert healed == [0, 1, 1, 1, 1]
    assert loss(small, 0) == 3.33333
    assert len(healed) == 5


@pytest.mark.parametrize("sampler", ["policy", "swap"])
def test_a_benchmark_s_study_goes_on_where_it_was_killed(source: Source, tmp_path: Path, sampler: str) -> None:
    limits, recipe = limits_of(source), Recipe(sampler, 0, 16, 4, Gate(survival=(1.0, 1.0)))
    losses = losses_of(limits, source.vocabulary.coverage)

    def trials(journal: str, fates: dict[int, int]) -> list[Any]:
        stand = Stand(tmp_path, fates=fates)
        found = recipe.run(limits, losses, stand, tmp_path / journal).get_trials()
        return [(one.params, one.user_attrs.get("narrowed"), one.state) for one in found]

    whole = trials("one.log", {})
    assert len(whole) == 16
    assert all(state == TrialState.COMPLETE for *_, state in whole)
    assert any(narrowed for _, narrowed, _ in whole) is (sampler == "swap")
    with pytest.raises(KeyboardInterrupt):
        trials("two.log", {trial_seed(0, 14): STOPS})
    assert trials("two.log", {}) == whole


def test_best_plans_are_healed_anew_as_they_say(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits, recipe = limits_of(source), Recipe("policy", 0, 24, 4, Gate(survival=(1.0, 1.0)))
    losses = losses_of(limits, source.vocabulary.coverage)
    trials = recipe.run(limits, losses, Stand(tmp_path), tmp_path / "one.log").get_trials()
    for number, loss in enumerate([50.0] * 3 + [40.0] + [60.0] * 18 + [30.0, 35.0]):
        trials[number].values = [loss, 1.0]
        trials[number].user_attrs.pop("healed divergence", None)
    asked: list[tuple[Plan, int]] = []

    def healed(_at_work: Bench, plan: Plan, seed: int) -> float:
        asked.append((plan, seed))
        return float(len(asked))

    monkeypatch.setattr("benchmarks.searches.healed_loss", healed)
    at_work: Any = SimpleNamespace(limits=limits)
    assert losses_anew(at_work, trials, 2) == [1.5, 3.5]
    best = [decode(trials[number].params, limits.layout) for number in (3, 22)]
    assert [plan for plan, _ in asked] == [best[0], best[0], best[1], best[1]]
    assert len({seed for _, seed in asked}) == 2
    assert not {seed for _, seed in asked} & {trial.user_attrs["seed"] for trial in trials}


def test_rows_of_searches_say_what_they_are_of() -> None:
    row = row_of(Recipe("swap", 0, 60, 50), 4, 2, [[50.0, 44.0, 40.0], [52.0, 41.0, 39.0], [51.0, 47.0, 44.0]])
    assert row == {
        **{"bin": 4, "sampler": "swap", "trials": 60, "heal steps": 50, "healings anew": 2, "seeds": 3},
        **{"after 20": "51.0 (50.0, 52.0, 51.0)", "after 50": "44.0 (44.0, 41.0, 47.0)"},
        "after 60": "40.0 (40.0, 39.0, 44.0)",
    }
    found = targets_of(4, {"policy": [[50.0, 38.0]], "swap": [[50.0, 40.0]], "nsga2": [[50.0, 50.0]]})
    assert [(one["value"], one["met"]) for one in found] == [(0.95, True)]
    assert targets_of(4, {"policy": [[38.0]]}) == targets_of(4, {"swap": [[38.0]]}) == []


def test_the_default_is_held_against_the_next_best_of_all_that_is_published() -> None:
    def row(sampler: str, at_50: float, at_200: float) -> dict[str, object]:
        return {"bin": 3, "sampler": sampler, "50 trials": f"{at_50} (0 to 9)", "200 trials": f"{at_200} (0 to 9)"}

    others = [row("swap", 0.9, 0.5), row("nsga2", 0.9, 0.4), row("policy without steps", 0.3, 0.2)]
    rows = [row("policy", 0.4, 0.2), *others, known_row(3, 0.1, 7_000), {**known_row(4, 0.1, 2), "sampler": "swap"}]
    found = {one["name"]: one["value"] for one in benchmark_targets(rows)}
    assert found == {
        "bin 3, policy's gap to the best known over that of nsga2": pytest.approx(1 / 3),
        "bin 3, policy at 50 trials over swap at 200": pytest.approx(0.8),
    }
    assert benchmark_targets(others) == []


def test_a_best_plan_stays_the_best_until_a_better_one_is_known() -> None:
    before, now = known_row(3, 0.2, 9_000), [known_row(3, 0.3, 10), known_row(4, 1.0, 10)]
    assert with_best_known(now, [before, {"bin": 3, "sampler": "swap"}]) == [before, now[1]]
    assert with_best_known([known_row(3, 0.1, 10)], [before]) == [known_row(3, 0.1, 10)]
