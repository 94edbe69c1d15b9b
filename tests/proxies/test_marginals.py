"""Marginals: single changes of a plan, each measured once, and what size and rate of a sublayer change together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from models.loading import Source
from proxies.answers import Answers
from proxies.marginals import Change, made, measure_marginals, neighbours
from space.bins import bin_range
from space.choices import Option, choices, choices_of, plan_of
from space.genes import repair
from space.limits import Limits
from space.pins import read_pins
from space.plan import REMOVED, Plan, Sublayer, uniform_plan
from space.prior import prior_loss
from space.rates import WHOLE
from tests.scores import adding_up, alone
from tests.tiny import load_tiny


@pytest.fixture(scope="module")
def limits(tmp_path_factory: pytest.TempPathFactory) -> Limits:
    source: Source = load_tiny(tmp_path_factory.mktemp("tiny"), "wide")
    return Limits(source.layout, bin_range(3, source.layout.source_bytes), source.fixed_bytes)


@pytest.fixture(scope="module")
def plan(limits: Limits) -> Plan:
    """One sublayer is gone, the others are neither whole nor at a rate at either end."""
    found = repair(uniform_plan(limits.layout, WHOLE), limits, 3)
    return plan_of(limits.layout, {**choices_of(limits.layout, found), "decoder.1.ffn": REMOVED})


def additive(limits: Limits, plan: Plan) -> float:
    loss = prior_loss(limits.layout)
    return sum(loss(name, option) for name, option in choices_of(limits.layout, plan).items())


def test_neighbours_differ_in_one_choice_by_at_most_two_steps(limits: Limits, plan: Plan) -> None:
    own, options = choices_of(limits.layout, plan), choices(limits.layout)
    found = list(neighbours(plan, limits))
    assert {name for name, _, _ in found} == {name for name in options if len(options[name]) > 1}
    assert len({(name, option) for name, option, _ in found}) == len(found)
    rates = limits.layout.rates
    for name, option, other in found:
        changed = {key: one for key, one in choices_of(limits.layout, other).items() if one != own[key]}
        assert changed == {name: option}
        before = own[name]
        if isinstance(option, Sublayer) and option.kept and isinstance(before, Sublayer) and before.kept:
            sizes = sorted({one.kept for one in options[name] if isinstance(one, Sublayer)})
            moved = (
                sizes.index(option.kept) - sizes.index(before.kept),
                rates.index(option.rate) - rates.index(before.rate),
            )
            assert sorted(map(abs, moved)) in ([0, 1], [0, 2])
    back = [option for name, option, _ in found if name == "decoder.1.ffn"]
    stays = [one.rate for one in own.values() if isinstance(one, Sublayer) and one.kept]
    assert len(back) == 2, "at a rate that others have"
    assert {one.rate for one in back if isinstance(one, Sublayer)} <= set(stays)


def test_from_a_plan_without_any_sublayer_all_may_come_back(limits: Limits, plan: Plan) -> None:
    own = choices_of(limits.layout, plan)
    gone = {name: REMOVED if isinstance(option, Sublayer) else option for name, option in own.items()}
    back = {
        name for name, option, _ in neighbours(plan_of(limits.layout, gone), limits) if isinstance(option, Sublayer)
    }
    assert back == {name for name, option in own.items() if isinstance(option, Sublayer)}


def test_a_sublayer_comes_back_at_a_rate_that_pins_allow(limits: Limits, plan: Plan) -> None:
    pinned = Limits(limits.layout, limits.size_range, limits.fixed_bytes, read_pins(["decoder:bits>=5"], limits.layout))
    back = [option for name, option, _ in neighbours(plan, pinned) if name == "decoder.1.ffn"]
    assert len(back) == 2
    assert all(isinstance(option, Sublayer) and option.rate.bits >= 5 for option in back)


def test_changes_are_those_of_the_score(limits: Limits, plan: Plan) -> None:
    found, own = (
        measure_marginals(plan, limits, alone(lambda other: additive(limits, other))),
        choices_of(limits.layout, plan),
    )
    whole = additive(limits, plan)
    for name, option, other in neighbours(plan, limits):
        assert found.changes[name][option] == pytest.approx(additive(limits, other) - whole)
    for name, changes in found.changes.items():
        assert changes[own[name]] == 0.0


def test_size_and_rate_together_change_by_the_sum(limits: Limits, plan: Plan) -> None:
    own, found = (
        choices_of(limits.layout, plan),
        measure_marginals(plan, limits, alone(lambda other: additive(limits, other))),
    )
    measured: dict[str, set[Option]] = {name: {option} for name, option in own.items()}
    for name, option, _ in neighbours(plan, limits):
        measured[name].add(option)
    both = 0
    for name, changes in found.changes.items():
        before = own[name]
        for option in changes.keys() - measured[name]:
            assert isinstance(option, Sublayer)
            assert isinstance(before, Sublayer)
            size, rate = Sublayer(option.kept, before.rate), Sublayer(before.kept, option.rate)
            assert changes[option] == changes[size] + changes[rate]
            both += 1
    assert both


def test_trades_of_size_for_rate_move_answers_by_what_both_do(limits: Limits, plan: Plan) -> None:
    found = measure_marginals(plan, limits, adding_up(limits, prior_loss(limits.layout)))
    own, (keys, linear) = choices_of(limits.layout, plan), found.linear(limits.layout)
    assert keys[: len(found.shifts)] == list(found.shifts)
    trades = keys[len(found.shifts) :]
    assert trades
    assert len(set(keys)) == len(keys)
    for name, option in trades:
        before = own[name]
        assert isinstance(option, Sublayer)
        assert isinstance(before, Sublayer)
        assert (option.kept - before.kept) * (option.rate.bits - before.rate.bits) < 0
        alone = [(name, Sublayer(option.kept, before.rate)), (name, Sublayer(before.kept, option.rate))]
        rows = np.array([[float(key == (name, option)) for key in keys], [float(key in alone) for key in keys]])
        traded, both = linear.divergences(rows)
        assert traded == pytest.approx(both, abs=1e-3)


def test_what_a_plan_changes_is_told_by_single_changes_and_trades(limits: Limits, plan: Plan) -> None:
    score = adding_up(limits, prior_loss(limits.layout))
    found, own = measure_marginals(plan, limits, score), choices_of(limits.layout, plan)
    keys, linear = found.linear(limits.layout)
    checked = {"trade": 0, "both": 0, "single": 0}
    for name, option in [(name, option) for name, of in found.changes.items() for option in of if option != own[name]]:
        other = plan_of(limits.layout, {**own, name: option}, plan.heal)
        if other.vocabulary != plan.vocabulary:
            continue
        row = made(keys, own, choices_of(limits.layout, other))
        kind = "both" if (name, option) not in keys else "single" if (name, option) in found.shifts else "trade"
        assert row.sum() == (2 if kind == "both" else 1)
        assert linear.divergences(row[None])[0] == pytest.approx(score(other, None).divergence, abs=2e-3)
        checked[kind] += 1
    assert all(checked.values())
    assert not made(keys, own, own).any()


def test_what_was_saved_is_not_scored_again(limits: Limits, plan: Plan) -> None:
    asked: list[Plan] = []
    saved: list[list[Change]] = []

    def score(other: Plan) -> float:
        asked.append(other)
        return additive(limits, other)

    def save(found: Sequence[Change]) -> None:
        saved.append(list(found))

    whole = measure_marginals(plan, limits, alone(score), save=save)
    count = len(asked)
    assert len(saved) == len({name for name, _, _ in neighbours(plan, limits)}), "after each choice"
    assert len(saved[-1]) == count - 1 == len(list(neighbours(plan, limits)))
    for known in (saved[0], saved[-1], saved[3][:-1]):
        asked.clear()
        assert measure_marginals(plan, limits, alone(score), known).changes == whole.changes
        assert len(asked) == count - len(known), "and the plan itself"


def test_pins_are_kept_and_what_breaks_the_model_is_dear(limits: Limits, plan: Plan) -> None:
    pinned = Limits(limits.layout, limits.size_range, limits.fixed_bytes, read_pins(["lm_head:bits>=2"], limits.layout))
    assert len(list(neighbours(plan, pinned))) < len(list(neighbours(plan, limits)))
    assert all(pinned.pins.allow(name, option) for name, option, _ in neighbours(plan, pinned))
    found = measure_marginals(plan, limits, alone(lambda other: 1.0 if other == plan else float("nan")))
    changes = [change for of in found.changes.values() for change in of.values() if change]
    assert min(changes) == 999.0


def test_shifts_are_what_a_change_moves_log_probabilities_by(limits: Limits, plan: Plan) -> None:
    """Not where other tokens are predicted, nor where no numbers are left."""
    own, ids = choices_of(limits.layout, plan), torch.zeros(2, 1, dtype=torch.long)
    broken = next(name for name in own if name.endswith("ffn") and own[name] != REMOVED)

    def logs(other: Plan) -> torch.Tensor:
        changed = choices_of(limits.layout, other)
        moved = float("nan") if changed[broken] != own[broken] else additive(limits, other)
        return torch.tensor([[moved, 0.0], [1.0, 2.0 * moved]])

    def score(other: Plan, like: Answers | None) -> Answers:
        assert (like is None) == (other == plan or other.vocabulary != plan.vocabulary)
        return Answers(1.0, logs(other), torch.zeros(2, 2), ids.clone() if like is None else like.ids, 2)

    found = measure_marginals(plan, limits, score)
    wanted = {(name, option) for name, option, _ in neighbours(plan, limits) if name not in (broken, "vocabulary")}
    assert found.shifts.keys() == wanted
    for name, option, other in neighbours(plan, limits):
        if (name, option) in wanted:
            assert torch.allclose(found.shifts[name, option].float(), logs(other) - logs(plan), rtol=1e-2, atol=1e-4)
