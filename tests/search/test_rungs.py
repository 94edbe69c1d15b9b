"""Rungs on two objectives, and samplers that learn from what a rung ended."""

from __future__ import annotations

import math
from statistics import median

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState

from search.finalists import choose
from search.rungs import Score, SeenStudy, grains, nondominated_ranks, promising, rung_scores
from search.samplers import SAMPLERS

SCORES = st.lists(
    st.builds(Score, st.one_of(st.integers(0, 8).map(float), st.just(math.nan)), st.integers(0, 8), st.integers(0, 2)),
    max_size=30,
)


def dominates(one: Score, other: Score) -> bool:
    return one != other and all(x <= y for x, y in zip(one, other, strict=True))


@given(SCORES)
def test_ranks_are_those_of_fronts_peeled_one_by_one(scores: list[Score]) -> None:
    plain, left, front = [len(scores)] * len(scores), set[int](), 0
    left = {i for i, score in enumerate(scores) if not math.isnan(score.divergence)}
    while left:
        best = {i for i in left if not any(dominates(scores[j], scores[i]) for j in left)}
        for i in best:
            plain[i] = front
        left, front = left - best, front + 1
    assert nondominated_ranks(scores) == plain


def test_a_third_of_a_rung_goes_on() -> None:
    earlier = [Score(float(n), 50) for n in range(20)]
    found = [promising(Score(n - 0.5, 50), earlier, 1 / 3) for n in (0, 3, 6, 7, 8, 20)]
    assert found == [True, True, True, False, False, False]
    assert promising(Score(99.0, 50), earlier[:3], 1 / 3)
    assert not promising(Score(float("nan"), 50), earlier[:3], 1 / 3)


def test_a_small_plan_goes_on_where_none_as_small_is_closer() -> None:
    earlier = [Score(float(n), 50) for n in range(20)]
    assert promising(Score(15.0, 30), earlier, 1 / 3)
    assert not promising(Score(15.0, 30), [*earlier, *(Score(float(n), 29) for n in range(12))], 1 / 3)
    assert not promising(Score(15.0, 50), earlier, 1 / 3)


def test_a_plan_that_keeps_more_goes_on_where_none_that_does_is_closer() -> None:
    earlier = [Score(float(n), 50, 12) for n in range(20)]
    assert promising(Score(15.0, 50, 2), earlier, 1 / 3)
    assert not promising(Score(15.0, 50, 2), [*earlier, *(Score(float(n), 50, 0) for n in range(12))], 1 / 3)


def test_the_front_goes_on_however_many_they_are() -> None:
    earlier = [Score(1.0 + n / 10, 50, 12 - n) for n in range(12)]
    assert promising(Score(9.0, 50, 0), earlier, 1 / 6)
    assert not promising(Score(9.0, 50, 12), earlier, 1 / 6)


def test_bytes_that_are_filled_up_decide_nothing() -> None:
    assert grains(999_900, 10**6) == grains(985_000, 10**6) == 50
    assert grains(979_000, 10**6) == 49


def in_memory() -> optuna.Study:
    return optuna.create_study(directions=["minimize", "minimize"])


def add(study: optuna.Study, x: int, divergences: list[float], *, pruned: bool) -> None:
    study.add_trial(
        optuna.create_trial(
            state=TrialState.PRUNED if pruned else TrialState.COMPLETE,
            params={"x": x},
            distributions={"x": optuna.distributions.IntDistribution(0, 99)},
            values=None if pruned else [divergences[-1], 900],
            user_attrs={"divergences": divergences, "bytes": 900, "removed": 4},
        )
    )


def test_a_pruned_trial_is_seen_with_what_it_would_have_come_to() -> None:
    study = in_memory()
    add(study, 1, [2.0, 1.0, 0.5], pruned=False)
    add(study, 2, [4.0, 2.0, 1.0], pruned=False)
    add(study, 3, [8.0], pruned=True)
    add(study, 4, [6.0, 4.0], pruned=True)
    add(study, 5, [math.nan], pruned=True)
    seen = SeenStudy(study).get_trials()
    assert [trial.state for trial in seen[2:]] == [TrialState.COMPLETE, TrialState.COMPLETE, TrialState.PRUNED]
    assert [trial.values for trial in seen[2:4]] == [pytest.approx([2.0, 900]), pytest.approx([2.0, 900])]
    assert [trial.state for trial in study.trials[2:]] == [TrialState.PRUNED] * 3
    assert [x.number for x in SeenStudy(study).get_trials(states=(TrialState.PRUNED,))] == [4]
    assert rung_scores(study.trials, 1000)[1] == [Score(1.0, 45, 4), Score(2.0, 45, 4), Score(4.0, 45, 4)]


def test_samplers_learn_from_pruned_trials() -> None:
    """What lies near the optimum was pruned, as most good trials are; the rest says little of where it is."""
    study = in_memory()
    for x in range(0, 100, 4):
        score = abs(x - 30) + 1.0
        add(study, x, [score] if x < 60 else [score, score, score], pruned=x < 60)

    study.ask()

    def distance(seen: optuna.Study) -> float:
        """Of what is proposed from the optimum, on the median of some seeds."""
        found = []
        for seed in range(20):
            sampler = SAMPLERS["tpe"](seed)
            space = {"x": optuna.distributions.IntDistribution(0, 99)}
            found.append(abs(sampler.sample_relative(seen, study.trials[-1], space)["x"] - 30))
        return median(found)

    assert distance(SeenStudy(study)) < 15 < distance(study)


def test_finalists_are_spread_from_the_closest_to_the_one_that_keeps_most() -> None:
    study = in_memory()
    front = ((0.9, 0), (0.5, 4), (0.6, 4), (0.4, 8), (0.3, 12), (0.35, 12), (0.95, 2))
    for x, steps, divergence, removed in [(i, 8, *one) for i, one in enumerate(front)] + [(4, 16, 0.31, 12)]:
        study.add_trial(
            optuna.trial.create_trial(
                params={"x": x, "heal_steps": steps},
                distributions=dict.fromkeys(("x", "heal_steps"), optuna.distributions.IntDistribution(0, 99)),
                values=[divergence, 900.0],
                user_attrs={"removed": removed, "bytes": 900},
            )
        )

    def chosen(count: int) -> list[float]:
        return [trial.values[0] for trial in choose(study, count)[0]]

    assert chosen(1) == [0.3]
    assert chosen(2) == [0.3, 0.9]
    assert chosen(3)[::2] == [0.3, 0.9]
    assert chosen(3)[1] in (0.4, 0.5)
    assert chosen(4) == [0.3, 0.4, 0.5, 0.9]
    assert chosen(6) == [0.3, 0.4, 0.5, 0.9, 0.35, 0.6]
    assert choose(in_memory(), 3) == ([], None)
