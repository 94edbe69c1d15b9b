"""Values learnt from trials: exact where they are linear, better than the prior where a truth is planted."""

from __future__ import annotations

import math
import random
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.values import Belief, Model, Uses, Values, linear_belief
from space.bins import max_size_range
from space.choices import choices, choices_of
from space.drafts import Drafts
from space.genes import decode, distributions, repair, swapped
from space.limits import Limits
from space.plan import REMOVED, Heal, Plan, Sublayer, uniform_plan
from space.policy import multipliers, policy_loss
from space.prior import prior_loss
from space.rates import WHOLE
from tests.space.test_laws import READER, TRIMMED, files

LIMITS = Limits(TRIMMED, max_size_range("150kB"), files)
LOSS = prior_loss(TRIMMED)
HEAL = Heal(25)


def random_plan(seed: int, limits: Limits = LIMITS) -> Plan:
    rng = random.Random(seed)
    params = {
        name: rng.choice(one.choices) if hasattr(one, "choices") else rng.randint(one.low, one.high)  # type: ignore[attr-defined]
        for name, one in distributions(limits.layout).items()
    }
    return repair(decode(params, limits.layout), limits, seed)


def plans_of_policies(count: int, seed: int) -> list[Plan]:
    """As trials are: the allocator's, about, of policies at random."""
    rng, drafts = random.Random(seed), Drafts(LIMITS, LOSS)
    bounds = multipliers(LIMITS.layout)
    drafted = [drafts.plan({name: rng.uniform(*ends) for name, ends in bounds.items()}, HEAL) for _ in range(count)]
    return [plan for plan in drafted if plan is not None]


def hidden(seed: int, model: Model, share: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=len(model.prior)) * model.prior * share


@given(st.integers(1, 12), st.integers(1, 6), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_a_linear_belief_is_that_of_the_dual_form(count: int, weights: int, seed: int) -> None:
    """By the covariance of trials (n, n), as for a Gaussian process, in place of that of the weights."""
    rng = np.random.default_rng(seed)
    table, values = rng.normal(size=(count, weights)), rng.normal(size=count)
    noise, prior = rng.uniform(0.1, 1, count), rng.uniform(0.1, 2, weights)
    found = linear_belief(table, values, noise, prior)
    before = np.diag(prior**2)
    gain = before @ table.T @ np.linalg.inv(table @ before @ table.T + np.diag(noise**2))
    assert found.mean == pytest.approx(gain @ values, abs=1e-8)
    covariance = np.linalg.inv(found.factor @ found.factor.T)
    assert covariance == pytest.approx(before - gain @ table @ before, abs=1e-8)


def test_draws_are_as_their_belief_says() -> None:
    factor = np.linalg.cholesky(np.array([[4.0, 1.0], [1.0, 2.0]]))
    belief, rng = Belief(np.array([1.0, -2.0]), factor), random.Random(0)
    draws = np.array([belief.drawn(rng, 0.5) for _ in range(20_000)])
    assert draws.mean(0) == pytest.approx(belief.mean, abs=0.02)
    assert np.cov(draws.T) == pytest.approx(0.25 * np.linalg.inv(factor @ factor.T), abs=0.01)
    assert (belief.drawn(rng, 0.0) == belief.mean).all()


@given(st.integers(0, 999))
@settings(max_examples=20, deadline=None)
def test_slopes_are_those_of_expected_losses(seed: int) -> None:
    model = Model(TRIMMED, LOSS)
    rows = np.array([model.row(random_plan(seed + i)) for i in range(3)])
    numbers = hidden(seed, model, 0.5)
    slopes = model.slopes(numbers, rows)
    for i in range(len(numbers)):
        step = np.zeros_like(numbers)
        step[i] = 1e-5
        difference = model.expected(numbers + step, rows) - model.expected(numbers - step, rows)
        assert slopes[:, i] == pytest.approx(difference / 2e-5, abs=1e-5)


@given(st.fixed_dictionaries({name: st.floats(*ends) for name, ends in multipliers(TRIMMED).items()}))
@settings(max_examples=20, deadline=None)
def test_shared_numbers_are_a_policy(policy: dict[str, float]) -> None:
    model = Model(TRIMMED, LOSS)
    numbers = np.zeros_like(model.prior)
    numbers[: len(policy)] = [policy[name] for name in multipliers(TRIMMED)]
    shaped = policy_loss(TRIMMED, LOSS)(policy)
    plain = [shaped(name, option) for name, options in choices(TRIMMED).items() for option in options]
    assert model.losses(numbers)[0] == pytest.approx(np.array(plain), rel=1e-4, abs=1e-3)


def test_costs_are_what_an_option_adds_to_the_logarithm() -> None:
    """To the first order, interactions in full."""
    model = Model(TRIMMED, LOSS)
    numbers, plan = hidden(3, model), random_plan(3)
    now = model.row(plan)
    costs, before = model.costs(numbers, now), model.expected(numbers, now[None])[0]
    losses = model.losses(numbers)[0]
    for place, option in enumerate(now):
        name = list(choices(TRIMMED))[place]
        gone = model.place.get((name, REMOVED))
        if gone is None or gone == option:
            continue
        then = now.copy()
        then[place] = gone
        whole = model.expected(numbers, then[None])[0] - before
        summed = np.log(losses[then].sum() / losses[now].sum()) - (losses[then].sum() / losses[now].sum() - 1)
        assert costs[gone] - costs[option] == pytest.approx(whole - summed, abs=1e-9)


def test_steps_are_counted_from_a_plan() -> None:
    model = Model(TRIMMED, LOSS)
    plan = uniform_plan(TRIMMED, TRIMMED.rates[3])
    away = model.steps_from(model.row(plan))
    assert (away >= 0).all()
    assert not away[model.row(plan)].any()
    one = choices_of(TRIMMED, plan)["decoder.0.ffn"]
    assert isinstance(one, Sublayer)
    assert away[model.place["decoder.0.ffn", Sublayer(one.kept, TRIMMED.rates[5])]] == 2
    assert away[model.place["decoder.0.ffn", REMOVED]] == 16
    assert away[model.place["embedding", WHOLE]] == len(TRIMMED.rates) - 4


@pytest.mark.parametrize("unit", [1, 1000])
def test_much_data_tells_a_planted_truth(unit: int) -> None:
    """What is learnt predicts plans nobody tried, though no two of them are alike; what is not, does not.

    Also where losses are of another unit than what options cost, as 100 - chrF is.
    """
    model = Model(TRIMMED, LOSS)
    truth = hidden(1, model)
    tried, others = ([model.row(plan) for plan in plans_of_policies(count, count)] for count in (300, 40))
    logs, asked = model.expected(truth, np.array(tried)), model.expected(truth, np.array(others))
    belief, rng = model.learnt(np.array(tried), logs + math.log(unit)), random.Random(0)
    drawn = [model.expected(belief.drawn(rng, 1.0), np.array(others)) for _ in range(5)]
    prior = model.expected(model.unlearnt().mean, np.array(others))
    far, learnt = np.abs(prior - asked).mean(), model.expected(belief.mean, np.array(others)) - math.log(unit)
    assert np.abs(learnt - asked).mean() < 0.15 * far
    assert np.abs(np.mean(drawn, 0) - math.log(unit) - asked).mean() < 0.25 * far


@pytest.mark.parametrize("layout", [TRIMMED, READER])
def test_proposals_are_inside_the_limits_and_the_same_each_time(layout: object) -> None:
    limits = LIMITS if layout is TRIMMED else Limits(READER, max_size_range("250kB"), files)
    plans = [random_plan(seed, limits) for seed in range(6)]
    losses = [float(limits.bytes_of(plan)) for plan in plans]
    values = Values(limits, prior_loss(limits.layout), HEAL)
    proposed = [values.after(plans, losses)(seed) for seed in range(6)]
    assert all(limits.hold(plan) and plan.heal == HEAL for plan in proposed)
    assert len(set(proposed)) > 3
    assert proposed == list(map(Values(limits, prior_loss(limits.layout), HEAL).after(plans, losses), range(6)))


def test_proposals_learn_a_planted_truth() -> None:
    """Each trial's plan goes by what those before it came to: closer to the truth's best than the prior's plan is."""
    model = Model(TRIMMED, LOSS)
    means = {}
    for uses in (Uses(), Uses(learning=False)):
        found = []
        for seed in range(2):
            truth = hidden(seed + 10, model)
            plans = plans_of_policies(12, seed)

            def score(plan: Plan, truth: np.ndarray = truth) -> float:
                return float(np.exp(model.expected(truth, model.row(plan)[None])[0]))

            losses = [score(plan) for plan in plans]
            start = min(losses)
            values = Values(LIMITS, LOSS, HEAL, uses)
            for number in range(12):
                plans.append(values.after(plans, losses)(number))
                losses.append(score(plans[-1]))
            found.append(min(losses) / start)
        means[uses.learning] = fmean(found)
    assert means[True] < 0.9, means
    assert means[True] < means[False]


def test_a_draw_that_moves_nothing_is_an_exchange() -> None:
    """Where every step is dear beyond its worth something is tried all the same."""
    plans = [swapped(random_plan(0), LIMITS, 1)]
    values = Values(LIMITS, lambda _name, _option: 1.0, HEAL)
    assert values.after(plans, [1.0])(0) != plans[0]


def test_a_loss_of_nothing_is_the_best_and_no_more() -> None:
    plans = plans_of_policies(20, 0)
    losses = [float(10 + i) for i in range(len(plans))]
    least = 0.05 * float(np.median(losses))
    values = Values(LIMITS, LOSS, HEAL)
    found, floored = (values.after(plans, [first, *losses[1:]]) for first in (0.0, least))
    assert [found(seed) for seed in range(4)] == [floored(seed) for seed in range(4)]
