"""Steps of the allocator from the best plan: inside the limits, fewer changes the dearer they are, no plan twice."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.trial import FrozenTrial, TrialState, create_trial
from optuna_dashboard import get_note

import launch
from compress.facts import BankFolder
from compress.shelf import Shelf
from models.loading import Source
from proxies.marginals import Change, Marginals, measure_marginals
from search.asking import UnaskedError
from search.baselines import least_loss_plan, losses_of, policy_attribute, starts
from search.gates import Gate
from search.loop import Terms, run_trials, suggest
from search.pools.here import InProcess
from search.samplers import SAMPLER_NAMES, SteppingSampler, sampler_named
from search.settings import REMEASURED, STEPPING, SearchSettings
from search.steps import AROUND, STEP_FROM, Steps, allocated_steps, steps_by
from search.workbench import known_changes
from space.bins import bin_range
from space.choices import choices_of
from space.errors import UserError
from space.genes import decode, distributions, encode, repair
from space.limits import Limits
from space.plan import NO_HEAL, Plan, uniform_plan
from space.policy import multipliers, policy_loss
from space.rates import WHOLE
from tests.scores import adding_up, alone
from tests.search.stand import Stand
from tests.tiny import load_tiny

TRIALS = 40
UNHEALED = SearchSettings("some", 20, bin=3, trial_heal_steps=0, finalist_heal_steps=0)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return load_tiny(tmp_path_factory.mktemp("tiny"), "wide")


@pytest.fixture(scope="module")
def limits(source: Source) -> Limits:
    return Limits(source.layout, bin_range(3, source.layout.source_bytes), source.fixed_bytes)


def divergence(source: Source, limits: Limits) -> Callable[[Plan], float]:
    """Stands for one without noise: other losses than samplers know, which do not add up."""
    known = losses_of(limits, source.vocabulary.coverage)["prior values"]
    names = list(multipliers(limits.layout))
    true = policy_loss(limits.layout, known)({name: 2.5 * (i % 3 - 1) for i, name in enumerate(names)})

    def score(plan: Plan) -> float:
        costs = [true(name, option) for name, option in choices_of(limits.layout, plan).items()]
        return sum(costs) + 0.3 * sum(map(abs, costs)) ** 1.2

    return score


def searched(
    source: Source,
    limits: Limits,
    name: str,
    *,
    rounds: int = REMEASURED,
    trials: int = TRIALS,
    study: optuna.Study | None = None,
    score: Callable[[Plan], float] | None = None,
    first: Plan | None = None,
    steps: Steps | None = None,
) -> tuple[optuna.Study, list[Plan]]:
    """A study without healing, and the plans that were measured around; `first` is tried before any other."""
    score, around = score or divergence(source, limits), list[Plan]()

    def measure(plan: Plan) -> Marginals:
        around.append(plan)
        return measure_marginals(plan, limits, alone(score))

    losses = losses_of(limits, source.vocabulary.coverage)
    study = study or optuna.create_study(directions=["minimize", "minimize"])
    steps = steps or (Steps(limits, NO_HEAL, measure, rounds) if rounds else None)
    study.sampler = sampler_named(name, limits, losses, 0, 0, steps=steps)
    if first is not None:
        study.enqueue_trial(encode(first, limits.layout))
    for number in range(sum(trial.state.is_finished() for trial in study.trials), trials):
        trial = study.ask()
        plan = replace(suggest(trial, limits.layout, 0), heal=NO_HEAL)
        assert limits.hold(plan)
        trial.set_user_attr("divergences", [score(plan)])
        trial.set_user_attr("bytes", limits.bytes_of(plan))
        trial.set_user_attr("removed", 0)
        if number == 9:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, [score(plan), limits.bytes_of(plan)])
    return study, around


def best(study: optuna.Study, before: int | None = None) -> float:
    return min(trial.values[0] for trial in study.trials[:before] if trial.values)


def test_steps_are_inside_and_the_dearer_changes_are_the_fewer(source: Source, limits: Limits) -> None:
    plan = least_loss_plan(limits, losses_of(limits, source.vocabulary.coverage)["prior values"])
    found = measure_marginals(plan, limits, alone(divergence(source, limits)))
    (steps, others), own = steps_by(found, limits, NO_HEAL), choices_of(limits.layout, plan)
    assert others == []
    assert len(steps) == len(set(steps)) > 2
    assert plan not in steps
    assert all(limits.hold(step) for step in steps)
    changed = [[name for name, one in choices_of(limits.layout, step).items() if one != own[name]] for step in steps]
    assert [len(one) for one in changed] == sorted(len(one) for one in changed)
    gains = [
        sum(found.changes[name][option] for name, option in choices_of(limits.layout, step).items()) for step in steps
    ]
    assert gains == sorted(gains, reverse=True), "more changes promise more"
    assert gains[-1] < 0


def test_where_nothing_changes_anything_there_is_no_step(source: Source, limits: Limits) -> None:
    plan = least_loss_plan(limits, losses_of(limits, source.vocabulary.coverage)["prior values"])
    assert steps_by(measure_marginals(plan, limits, alone(lambda _plan: 1.0)), limits, NO_HEAL) == ([], [])


def test_what_adds_up_in_log_probabilities_leads_farther_than_sums_of_divergences(
    source: Source, limits: Limits
) -> None:
    losses = losses_of(limits, source.vocabulary.coverage)["prior values"]
    plan, score = least_loss_plan(limits, losses), adding_up(limits, losses)
    found = measure_marginals(plan, limits, score)
    (first, others), summed = steps_by(found, limits, NO_HEAL), allocated_steps(found, limits, NO_HEAL)
    steps = [*first, *others]
    assert others
    assert 3 <= len([step for step in first if step not in summed]) <= 5, "two climbs and three that make few changes"
    assert len([step for step in first if step in summed]) <= 3
    assert len(steps) == len(set(steps)) > len(summed)
    assert plan not in steps
    assert all(limits.hold(step) for step in steps)
    true = {step: score(step, None).divergence for step in (*steps, *summed)}
    assert true[steps[0]] < min(*(true[step] for step in summed), score(plan, None).divergence)
    climbed = [true[first[0]], *(true[step] for step in others if step not in summed)]
    assert len(climbed) > 2
    assert climbed == pytest.approx(sorted(climbed), rel=5e-3), "the best first"


def test_other_steps_are_tried_where_nothing_more_is_measured_around(source: Source, limits: Limits) -> None:
    losses = losses_of(limits, source.vocabulary.coverage)["prior values"]
    answers, listed, begun = adding_up(limits, losses), list[Plan](), list[Plan]()

    def measure(plan: Plan) -> Marginals:
        found = measure_marginals(plan, limits, answers)
        first, others = steps_by(found, limits, NO_HEAL)
        begun.extend(first)
        listed.extend([*first, *others])
        return found

    steps = Steps(limits, NO_HEAL, measure, 1)
    study, _ = searched(source, limits, STEPPING, score=lambda plan: answers(plan, None).divergence, steps=steps)
    taken = [decode(trial.params, limits.layout) for trial in study.trials if STEP_FROM in trial.user_attrs]
    assert len(taken) > len(begun) > 0, "more than the first ones"
    assert taken == listed[: len(taken)]
    assert len({trial.user_attrs[STEP_FROM] for trial in study.trials if STEP_FROM in trial.user_attrs}) == 1


def test_steps_find_better_plans_than_policies_or_exchanges_alone(source: Source, limits: Limits) -> None:
    study, around = searched(source, limits, STEPPING)
    (alone, none), (swapped, _) = (searched(source, limits, name, rounds=0) for name in (STEPPING, "swap"))
    assert best(study) < min(best(alone), best(swapped))
    assert none == []
    assert not any(STEP_FROM in trial.user_attrs for trial in alone.trials)
    origins = [trial.user_attrs[STEP_FROM] for trial in study.trials if STEP_FROM in trial.user_attrs]
    assert origins == sorted(origins, key=origins.index), "one after the other"
    assert 1 < len(set(origins)) == len(around) <= REMEASURED
    assert all(trial.number % 2 == 0 for trial in study.trials if STEP_FROM in trial.user_attrs)
    for before, origin in pairwise([None, *dict.fromkeys(origins)]):
        reached = [one for one in study.trials if one.user_attrs.get(STEP_FROM) == before and one.values]
        from_it = before is not None and min(one.values[0] for one in reached) < study.trials[before].values[0]
        first = next(one.number for one in study.trials if one.user_attrs.get(STEP_FROM) == origin)
        least = min(one.values[0] for one in reached) if from_it else best(study, first)
        assert study.trials[origin].values[0] == least
    plans = [tuple(sorted(trial.params.items())) for trial in study.trials]
    assert len(set(plans)) == len(plans)


def test_steps_begin_at_the_allocator_s_own_plan_whatever_else_is_better(source: Source, limits: Limits) -> None:
    score = divergence(source, limits)
    plans = [repair(uniform_plan(limits.layout, WHOLE), limits, seed) for seed in range(2)]
    better, own = sorted(plans, key=score)
    study = optuna.create_study(directions=["minimize", "minimize"])
    zeros = {policy_attribute("prior values"): dict.fromkeys(multipliers(limits.layout), 0.0)}
    for plan, kept in ((better, {}), (own, zeros)):
        study.enqueue_trial(encode(plan, limits.layout), user_attrs=kept)
    found, around = searched(source, limits, STEPPING, trials=9, study=study)
    assert around == [own]
    assert [trial.user_attrs.get(STEP_FROM) for trial in found.trials[2::2]] == [1] * 4


def test_no_more_plans_are_measured_around_than_asked(source: Source, limits: Limits) -> None:
    study, around = searched(source, limits, "policy", rounds=1)
    assert len(around) == 1
    assert len({trial.user_attrs[STEP_FROM] for trial in study.trials if STEP_FROM in trial.user_attrs}) == 1


def test_plans_without_a_step_count_and_two_of_them_are_the_end(source: Source, limits: Limits) -> None:
    """Each exchange finds something better, and yet no single change of it is any better: there is no step."""
    better: dict[Plan, float] = {}

    def score(plan: Plan) -> float:
        return better.setdefault(plan, 10.0 - 0.1 * len(better))

    around: list[Plan] = []

    def measure(plan: Plan) -> Marginals:
        around.append(plan)
        return measure_marginals(plan, limits, alone(lambda other: float(other != plan)))

    study = optuna.create_study(directions=["minimize", "minimize"])
    steps = Steps(limits, NO_HEAL, measure, REMEASURED)
    searched(source, limits, STEPPING, study=study, score=score, steps=steps, trials=24)
    assert len(around) == 2
    assert len({trial.user_attrs[AROUND] for trial in study.trials if AROUND in trial.user_attrs}) == 2
    assert not any(STEP_FROM in trial.user_attrs for trial in study.trials)


@pytest.mark.parametrize("adds_up", [False, True])
def test_nothing_new_is_measured_around_while_what_leads_on_is_not_scored(
    source: Source, limits: Limits, adds_up: bool
) -> None:
    """Several workers: the allocator's own plan, then the steps from it, are scored while more is asked for."""
    losses, around = losses_of(limits, source.vocabulary.coverage)["prior values"], list[Plan]()
    answers = adding_up(limits, losses) if adds_up else alone(divergence(source, limits))

    def score(plan: Plan) -> float:
        return answers(plan, None).divergence

    def measure(plan: Plan) -> Marginals:
        around.append(plan)
        return measure_marginals(plan, limits, answers)

    plans = [repair(uniform_plan(limits.layout, WHOLE), limits, seed) for seed in range(2)]
    zeros = {policy_attribute("prior values"): dict.fromkeys(multipliers(limits.layout), 0.0)}
    trials = [ended(limits, plans[0], 0, score), ended(limits, plans[1], 1, None, zeros)]
    steps = Steps(limits, NO_HEAL, measure, REMEASURED)
    assert steps.next(trials, trials[1]) == (None, {})
    trials[1] = ended(limits, plans[1], 1, score, zeros)
    while (found := steps.next(trials, trials[1]))[0] is not None:
        trials.append(ended(limits, found[0], len(trials), None, found[1]))
    assert len(trials) > 3
    assert around == [plans[1]], "all steps are under way, and nothing else begins"
    for number in range(2, len(trials)):
        assert steps.next(trials, trials[1]) == (None, {})
        plan, kept = decode(trials[number].params, limits.layout), trials[number].user_attrs
        trials[number] = ended(limits, plan, number, score, kept)
    step, kept = steps.next(trials, trials[1])
    best = min(trials[1:], key=lambda one: one.values[0])
    assert step is not None
    assert kept == {AROUND: best.number, STEP_FROM: best.number}


def ended(
    limits: Limits,
    plan: Plan,
    number: int,
    score: Callable[[Plan], float] | None,
    kept: Mapping[str, Any] | None = None,
) -> FrozenTrial:
    """A trial that is complete, or, without a score, under way."""
    found = create_trial(
        state=TrialState.RUNNING if score is None else TrialState.COMPLETE,
        values=None if score is None else [score(plan), 1.0],
        params=encode(plan, limits.layout),
        distributions=distributions(limits.layout, 0),
        user_attrs=dict(kept or {}),
    )
    found.number = number
    return found


def test_a_study_that_was_killed_takes_the_steps_it_would_have_taken(source: Source, limits: Limits) -> None:
    whole, _ = searched(source, limits, "policy")
    for killed in (13, 20):
        study = optuna.create_study(directions=["minimize", "minimize"])
        study.add_trials(whole.trials[:killed])
        searched(source, limits, "policy", study=study)
        assert [trial.params for trial in study.trials] == [trial.params for trial in whole.trials]


def test_behind_a_plan_that_no_step_leads_on_from_single_things_are_exchanged(source: Source, limits: Limits) -> None:
    layout, first = (
        limits.layout,
        least_loss_plan(limits, losses_of(limits, source.vocabulary.coverage)["prior values"]),
    )
    own = choices_of(layout, first)

    def lonely(plan: Plan) -> float:
        """More bytes for any one thing are worth having; with anything else changed, too, all is worse."""
        changed = sum(option != own[name] for name, option in choices_of(layout, plan).items())
        return 2.0 if changed > 1 else 1.0 - 0.1 * changed * (limits.bytes_of(plan) > limits.bytes_of(first))

    study, around = searched(source, limits, STEPPING, score=lonely, first=first)
    taken = [trial.number for trial in study.trials if STEP_FROM in trial.user_attrs]
    assert around == [first]
    assert taken == list(range(2, 2 * len(taken) + 1, 2))
    policies = [policy_attribute("prior values") in trial.user_attrs for trial in study.trials]
    assert policies == [number % 2 == 1 for number in range(TRIALS)]
    exchanged = [decode(trial.params, layout) for trial in study.trials[taken[-1] + 2 :: 2]]
    assert len(exchanged) > 5
    changes = [sum(option != own[name] for name, option in choices_of(layout, plan).items()) for plan in exchanged]
    assert max(changes) < 12


def test_a_search_that_is_to_stop_does_not_measure_to_the_end(source: Source, limits: Limits, tmp_path: Path) -> None:
    losses, score = losses_of(limits, source.vocabulary.coverage), divergence(source, limits)
    study = optuna.create_study(directions=["minimize", "minimize"])
    interrupted = threading.Event()

    def measure(plan: Plan) -> Marginals:
        if "goes on" in study.user_attrs:
            return measure_marginals(plan, limits, alone(score))
        interrupted.set()
        raise UnaskedError

    steps = Steps(limits, NO_HEAL, measure, REMEASURED)
    study.sampler = sampler_named(STEPPING, limits, losses, 0, 0, steps=steps)
    first = starts(limits, losses, NO_HEAL, 16, grid=False)
    terms = Terms([limits], first, 0, "test", Gate(survival=(1.0, 1.0)), 0)

    def run() -> list[FrozenTrial]:
        run_trials(study, InProcess(Stand(tmp_path)), terms, 16, lambda _trial: None, stop=interrupted.is_set)
        return study.get_trials()

    stopped = run()
    assert 0 < len(stopped) < 16
    assert all(trial.state.is_finished() for trial in stopped)
    interrupted.clear()
    study.set_user_attr("goes on", True)
    whole = run()
    assert len(whole) == 16
    assert whole[len(stopped)].user_attrs[STEP_FROM] < len(stopped)


def test_steps_are_for_the_default_alone(source: Source, limits: Limits) -> None:
    losses = losses_of(limits, source.vocabulary.coverage)
    steps = Steps(limits, NO_HEAL, lambda plan: Marginals(plan, {}), 1)
    stepping = [
        name
        for name in SAMPLER_NAMES
        if isinstance(sampler_named(name, limits, losses, 0, 0, steps=steps), SteppingSampler)
    ]
    assert stepping == [STEPPING] == [SearchSettings.sampler]


def test_studies_that_heal_take_no_steps() -> None:
    healing, plain = SearchSettings("some", 20, bin=3), UNHEALED
    later = replace(plain, finalist_heal_steps=100)
    assert (healing.rounds, later.rounds, plain.rounds) == (0, 0, REMEASURED)
    assert replace(later, remeasured=3).rounds == 3
    assert replace(plain, sampler="swap").rounds == replace(plain, bin=None, pareto=True).rounds == 0
    replace(healing, remeasured=0).check()
    replace(later, remeasured=3).check()
    for other in (healing, replace(plain, sampler="swap"), replace(plain, bin=None, pareto=True)):
        with pytest.raises(UserError, match="--remeasure 2: is for one bin, --trial-heal-steps 0 and --sampler"):
            replace(other, remeasured=2).check()
    with pytest.raises(UserError, match="--remeasure -1"):
        replace(plain, remeasured=-1).check()


def test_a_search_that_heals_nothing_takes_steps_and_the_bank_keeps_what_they_go_by(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = [
        "--bin",
        "2",
        "--trials",
        "12",
        "--heal-steps",
        "0",
        "--trial-heal-steps",
        "0",
        "--finalists",
        "1",
        *words,
    ]

    def stepping(name: str) -> list[FrozenTrial]:
        study = optuna.load_study(storage=f"sqlite:///studies/{name}/study.db", study_name=name)
        found = [trial for trial in study.trials if STEP_FROM in trial.user_attrs]
        for trial in found:
            note = get_note(optuna.Trial(study, trial._trial_id))
            assert f"sampler policy, a step from trial {trial.user_attrs[STEP_FROM]}" in note
        return found

    with monkeypatch.context() as patched:
        patched.setattr("search.workbench.measure_marginals", killed_behind(7))
        with pytest.raises(RuntimeError, match="killed"):
            launch.main([*command, "--study", "first"])
    (bank,) = {path.parent for path in Path("studies/bank").glob("*/changes-*.safetensors")}
    (name,) = {path.stem.rpartition("-")[0] for path in bank.glob("changes-*.safetensors")}
    folder = BankFolder(bank, Shelf())
    begun = known_changes(folder, name)
    assert begun, "whole choices"
    assert any(change.shift is not None for change in begun)
    assert launch.main([*command, "--study", "first"]) == 0
    said = re.findall(
        r"measuring what (\d+) single changes of a plan are worth, to step on from it", capsys.readouterr().out
    )
    measured = known_changes(folder, name)
    assert all(same(one, other) for one, other in zip(measured[: len(begun)], begun, strict=True))
    assert int(said[1]) == len(measured) - len(begun)
    steps = stepping("first")
    assert steps
    assert launch.main([*command, "--study", "second", "--seed", "1"]) == 0
    again = stepping("second")
    assert (again[0].number, again[0].params) == (steps[0].number, steps[0].params)
    assert all(same(one, other) for one, other in zip(known_changes(folder, name), measured, strict=True))
    capsys.readouterr()
    assert launch.main([*command, "--remeasure", "0", "--study", "first"]) == 2
    assert f"tightfit: --remeasure 0: study 'first' began with {REMEASURED}; leave it out" in capsys.readouterr().err
    assert launch.main([*command, "--heal-steps", "1", "--study", "first"]) == 0, "finalists may heal later"


def same(one: Change, other: Change) -> bool:
    if one.shift is None or other.shift is None:
        return one.shift is other.shift and one.divergence == other.divergence
    return torch.equal(one.shift, other.shift) and one.divergence == other.divergence


def killed_behind(choices_measured: int) -> Callable[..., Marginals]:
    """Measures as ever until so many choices were saved."""
    saved = [0]

    def measure(plan: Plan, limits: Limits, score: Any, known: Any, save: Callable[[Any], None]) -> Marginals:
        def saves(found: Any) -> None:
            save(found)
            saved[0] += 1
            if saved[0] == choices_measured:
                raise RuntimeError("killed")

        return measure_marginals(plan, limits, score, known, saves)

    return measure
