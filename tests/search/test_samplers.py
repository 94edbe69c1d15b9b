"""Samplers by name: what they propose is a plan inside the limits, the same each time, and policies are learnt from."""

from __future__ import annotations

import random
from collections.abc import Callable
from statistics import fmean

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState, create_trial

from models.loading import Source
from search.baselines import least_loss_plan, losses_of
from search.loop import suggest
from search.rungs import SeenStudy
from search.samplers import (
    ALLOCATOR,
    POLICIES,
    SAMPLER_NAMES,
    ListedStudy,
    PlanSampler,
    PolicySampler,
    sampler_named,
    shown,
)
from space.bins import bin_range
from space.choices import choices_of, sizes
from space.errors import UserError
from space.genes import HEAL_STEPS, decode, distributions, encode, repair
from space.limits import Limits
from space.plan import Plan, Sublayer, removed_sublayers, uniform_plan
from space.policy import multipliers, policy_loss
from space.rates import WHOLE
from space.traits import traits
from tests.tiny import load_tiny

TRIALS = 6
# From the trials before, in ways of their own, after a few.
LEARNING = ("policy", ALLOCATOR)
# Optuna calls some of its samplers experimental.
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return load_tiny(tmp_path_factory.mktemp("tiny"), "wide")


def limits_of(source: Source) -> Limits:
    return Limits(source.layout, bin_range(3, source.layout.source_bytes), source.fixed_bytes)


def loss(limits: Limits, plan: Plan) -> float:
    """Stands for 100 - chrF: what is removed, and what is coarse."""
    return removed_sublayers(plan) + 1e5 / limits.bytes_of(plan)


def run(
    limits: Limits,
    source: Source,
    name: str,
    trials: int,
    seed: int = 0,
    *,
    score: Callable[[Limits, Plan], float] = loss,
    sampler: PlanSampler | None = None,
) -> tuple[optuna.Study, list[Plan]]:
    """Of the sampler of a name, or of another one. Every other trial is pruned, as rungs do."""
    study = optuna.create_study(directions=["minimize", "minimize"])
    study.sampler = sampler or sampler_named(name, limits, losses_of(limits, source.vocabulary.coverage), seed)
    plans = []
    for number in range(trials):
        trial = study.ask()
        plans.append(suggest(trial, limits.layout, HEAL_STEPS))
        trial.set_user_attr("divergences", [score(limits, plans[-1])])
        trial.set_user_attr("bytes", limits.bytes_of(plans[-1]))
        trial.set_user_attr("removed", removed_sublayers(plans[-1]))
        if number % 2:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, [score(limits, plans[-1]), limits.bytes_of(plans[-1])])
    return study, plans


@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_proposals_are_plans_inside_the_limits_and_the_same_each_time(source: Source, name: str) -> None:
    limits = limits_of(source)
    study, plans = run(limits, source, name, TRIALS)
    assert all(limits.hold(plan) for plan in plans)
    assert len(set(plans)) > TRIALS // 2
    assert plans == run(limits, source, name, TRIALS)[1]
    assert plans != run(limits, source, name, TRIALS, seed=1)[1]
    kept = [any(key.startswith("policy") for key in trial.user_attrs) for trial in study.trials]
    assert kept == [name in (*POLICIES, ALLOCATOR)] * TRIALS


def test_a_gaussian_process_over_all_parameters_is_repaired_and_the_same_each_time(source: Source) -> None:
    limits = limits_of(source)
    (_, plans), (_, drawn) = run(limits, source, "gp", 21), run(limits, source, "random", 21)
    assert plans[:20] == drawn[:20]
    assert plans[20] != drawn[20], "it learns from trials that rungs stopped, too"
    assert limits.hold(plans[20])
    assert plans == run(limits, source, "gp", 21)[1]


@pytest.mark.parametrize("name", LEARNING)
def test_a_proposal_depends_on_the_trials_before_it_alone(source: Source, name: str) -> None:
    """A run that was killed is taken up by another sampler of the same kind, which has seen nothing itself."""
    limits = limits_of(source)
    study, plans = run(limits, source, name, 16)
    again = optuna.create_study(directions=["minimize", "minimize"])
    again.add_trials(study.trials[:15])
    again.sampler = sampler_named(name, limits, losses_of(limits, source.vocabulary.coverage), 0)
    assert suggest(again.ask(), limits.layout, HEAL_STEPS) == plans[15]


def test_a_trial_that_was_killed_between_two_parameters_keeps_its_plan(source: Source) -> None:
    """Though what options cost is known better by then, so that the sampler would propose another."""
    limits = limits_of(source)
    losses = losses_of(limits, source.vocabulary.coverage)
    study, _ = run(limits, source, "policy", TRIALS)
    killed = study.ask()
    first = next(iter(distributions(limits.layout)))
    killed.suggest_int(first, 0, len(sizes(limits.layout.towers[0], "attention")) - 1)
    proposed = decode(study.trials[killed.number].system_attrs["fixed_params"], limits.layout)
    measured = {**losses, "sensitivities": lambda name, option: losses["prior values"](name, option) ** 0.5}
    study.sampler = sampler_named("policy", limits, measured, 0)
    assert suggest(optuna.Trial(study, killed._trial_id), limits.layout, HEAL_STEPS) == proposed
    assert suggest(study.ask(), limits.layout, HEAL_STEPS) != proposed


@pytest.mark.parametrize("name", LEARNING)
def test_no_plan_is_proposed_twice(source: Source, name: str) -> None:
    limits = limits_of(source)
    _, plans = run(limits, source, name, 24)
    assert len(set(plans)) == len(plans)
    assert all(limits.hold(plan) for plan in plans)


def test_two_of_four_proposals_are_of_learnt_values(source: Source) -> None:
    """Once there is something to learn from; the others are policies as ever."""
    limits = limits_of(source)
    study, plans = run(limits, source, ALLOCATOR, 24)
    policies = [any(key.startswith("policy") for key in trial.user_attrs) for trial in study.trials]
    assert policies == [number < 14 or number % 4 < 2 for number in range(24)]
    assert {plan.heal.steps for plan in plans} == {HEAL_STEPS}


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_policies_are_proposed_as_from_a_study_that_has_them(source: Source, name: str) -> None:
    """A list of trials is to a sampler what trials in a storage are, refused proposals among them."""
    limits = limits_of(source)
    study, _ = run(limits, source, "policy", 30)
    sampler = sampler_named(name, limits, losses_of(limits, source.vocabulary.coverage), 0)
    assert isinstance(sampler, PolicySampler)
    known = [sampler._policy_of(one) for one in sampler._told(SeenStudy(study).get_trials())]
    assert len(known) == 30
    for place, one in enumerate(known):  # the first are the best: whoever overlooks one of them proposes otherwise
        one.values = [float(place)]
    listed, stored = ListedStudy(known), optuna.create_study()
    for one in known:
        stored.add_trial(create_trial(params=one.params, distributions=one.distributions, value=one.values[0]))
    for again in range(3):
        stored.sampler = POLICIES[name](again)
        asked = stored.ask(dict(known[0].distributions)).params
        assert listed.proposed(POLICIES[name](again), known[0].distributions) == pytest.approx(asked)


def test_exchanges_begin_at_the_best_plan_that_went_through_every_rung(source: Source) -> None:
    """And get somewhere: each plan is a few exchanges from the best of those before it that were complete."""
    limits = limits_of(source)
    study, plans = run(limits, source, "swap", 40)
    complete = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    assert min(trial.values[0] for trial in complete) < 0.8 * complete[0].values[0]
    for number, plan in enumerate(plans[1:], 1):
        best = min((trial for trial in complete if trial.number < number), key=lambda one: (one.values[0], one.number))
        before, after = (choices_of(limits.layout, one) for one in (plans[best.number], plan))
        changed = [(after[name], option) for name, option in before.items() if after[name] != option]
        narrower = [x for x, y in changed if isinstance(x, Sublayer) and isinstance(y, Sublayer) and x.kept < y.kept]
        assert changed
        assert len(narrower) <= 3


@pytest.mark.parametrize("name", ["nsga2", "nsga3"])
def test_plans_that_are_tried_first_breed(source: Source, name: str) -> None:
    """Children of so many of one plan are near it."""
    limits = limits_of(source)
    losses = losses_of(limits, source.vocabulary.coverage)
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler_named(name, limits, losses, 0))
    first = encode(least_loss_plan(limits, losses["prior values"]), limits.layout)
    for _ in range(20):
        study.enqueue_trial(first)
    for _ in range(21):
        trial = study.ask()
        suggest(trial, limits.layout, HEAL_STEPS)
        study.tell(trial, [1.0, 1.0])
    changed = [key for key, value in study.trials[-1].params.items() if first[key] != value]
    assert len(changed) < len(first) / 4


def test_policies_are_learnt_from(source: Source) -> None:
    """A policy nobody told of says what plans cost: 40 trials bring more than half of what knowing it would."""
    limits, rng = limits_of(source), random.Random(0)
    prior = losses_of(limits, source.vocabulary.coverage)["prior values"]
    hidden = {name: rng.uniform(*ends) for name, ends in multipliers(limits.layout).items()}
    true = policy_loss(limits.layout, prior)(hidden)

    def cost(limits: Limits, plan: Plan) -> float:
        return sum(true(name, option) for name, option in choices_of(limits.layout, plan).items())

    known, unknown = (cost(limits, least_loss_plan(limits, values)) for values in (true, prior))
    best, early, late = [], [], []
    for seed in range(3):
        _, plans = run(limits, source, "policy", 40, seed, score=cost)
        losses = [cost(limits, plan) for plan in plans]
        best.append(min(losses))
        early.append(fmean(losses[:12]))
        late.append(fmean(losses[-12:]))
    assert fmean(best) - known < 0.5 * (unknown - known)
    assert fmean(late) < 0.8 * fmean(early)


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_the_first_policies_are_near_the_allocators_own(source: Source, name: str) -> None:
    """Where what is guessed of options is right they lose far less than policies at random, and yet are others."""
    limits, rng = limits_of(source), random.Random(0)
    prior = losses_of(limits, source.vocabulary.coverage)["prior values"]

    def cost(plan: Plan) -> float:
        return sum(prior(name, option) for name, option in choices_of(limits.layout, plan).items())

    shaped = policy_loss(limits.layout, prior)
    uniform = [{key: rng.uniform(*ends) for key, ends in multipliers(limits.layout).items()} for _ in range(24)]
    random_ones = fmean(cost(least_loss_plan(limits, shaped(policy))) for policy in uniform)
    _, plans = run(limits, source, name, 12)
    own = cost(least_loss_plan(limits, prior))
    assert len(set(plans)) > 8
    assert fmean(map(cost, plans)) - own < 0.5 * (random_ones - own)


def test_of_plans_that_are_drafted_one_is_taken_that_is_made_as_good_ones_are(source: Source) -> None:
    """What counts is what plans are made of, in a way no policy says: drafts find it in fewer trials."""
    limits = limits_of(source)

    def cost(limits: Limits, plan: Plan) -> float:
        found = traits(plan, limits.layout)
        return 0.1 + abs(found["decoder.ffn.kept"] - 0.4) + abs(found["encoder.attention.kept"] - 0.6)

    means = {}
    for name in ("policy", "policy-tpe"):
        losses = []
        for seed in range(3):
            _, plans = run(limits, source, name, 32, seed, score=cost)
            losses += [cost(limits, plan) for plan in plans[21::2]]
        means[name] = fmean(losses)
    assert means["policy"] < 0.75 * means["policy-tpe"]


def test_of_two_that_promise_alike_the_one_nobody_knows_is_hoped_for(source: Source) -> None:
    class Stub:
        """In a judge's place: the second draft is expected to be a little worse, and known less."""

        def expected(self, asked: list[list[float]]) -> tuple[np.ndarray, np.ndarray]:
            assert len(asked) == 2
            return np.array([0.0, 0.2]), np.array([0.0, self.unknown])

        unknown = 0.0

    limits = limits_of(source)
    sampler = sampler_named("policy", limits, losses_of(limits, source.vocabulary.coverage), 0)
    assert isinstance(sampler, PolicySampler)
    policies = [dict.fromkeys(multipliers(limits.layout), share) for share in (0.0, 0.1)]
    stub = Stub()
    assert sampler._likeliest(policies, stub) == policies[0]  # type: ignore[arg-type]
    stub.unknown = 1.0
    assert sampler._likeliest(policies, stub) == policies[1]  # type: ignore[arg-type]


def test_exchanges_do_not_begin_at_a_plan_that_was_stopped(source: Source) -> None:
    """However close it is: what it would have come to is not known."""
    limits = limits_of(source)
    losses = losses_of(limits, source.vocabulary.coverage)
    plans = [repair(uniform_plan(limits.layout, WHOLE), limits, seed) for seed in range(3)]
    study = optuna.create_study(directions=["minimize", "minimize"])
    ended = [(50.0, 2.0, True), (60.0, 4.0, True), (None, 0.01, False)]
    for plan, (worth, divergence, complete) in zip(plans, ended, strict=True):
        study.add_trial(
            create_trial(
                state=TrialState.COMPLETE if complete else TrialState.PRUNED,
                params=encode(plan, limits.layout),
                distributions=distributions(limits.layout, HEAL_STEPS),
                values=[worth, 1.0] if worth else None,
                user_attrs={"divergences": [divergence] * (1 + complete), "bytes": 1, "removed": 0},
            )
        )
    study.sampler = sampler_named("swap", limits, losses, 0)
    found = choices_of(limits.layout, suggest(study.ask(), limits.layout, HEAL_STEPS))
    apart = [sum(found[name] != option for name, option in choices_of(limits.layout, one).items()) for one in plans]
    assert apart[0] == min(apart) < apart[2]


def test_another_name_is_one_line(source: Source) -> None:
    with pytest.raises(UserError, match="--sampler best: not one of policy"):
        sampler_named("best", limits_of(source), {}, 0)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 99), max_size=600))
def test_of_many_policies_the_best_are_shown(losses: list[int]) -> None:
    known = [create_trial(values=[float(loss)]) for loss in losses]
    for number, trial in enumerate(known):
        trial.number = number
    found = [trial.number for trial in shown(known)]
    assert found == sorted(set(found))
    assert len(found) == min(250, len(losses))
    by_loss = sorted(range(len(losses)), key=lambda i: (losses[i], i))
    assert set(by_loss[:25]) <= set(found), "those that TPE calls good, of all and of those it is shown"
