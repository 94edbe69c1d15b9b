"""Rungs on two objectives, and samplers that learn from what a rung ended."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from statistics import median

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.finalists import best_of_kind, choose
from search.rungs import (
    HEALED,
    LEARNT,
    Score,
    SeenStudy,
    Standing,
    expected,
    goes_on,
    grains,
    nondominated_ranks,
    promising,
    ridge,
    settled,
    standings,
)
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


def test_a_share_is_a_share_where_a_search_gets_better() -> None:
    rng = random.Random(0)
    earlier = [Score(30 - 0.015 * n + rng.gauss(0, 1), 10) for n in range(300)]
    went = [promising(score, earlier[:n], 1 / 6) for n, score in enumerate(earlier)]
    assert 300 / 6 < sum(went) < 300 / 3, "148 where all that ever were count"
    closest = min(range(300), key=lambda n: earlier[n])
    assert went[closest]


def test_the_front_goes_on_however_many_they_are() -> None:
    earlier = [Score(1.0 + n / 10, 50, 12 - n) for n in range(12)]
    assert promising(Score(9.0, 50, 0), earlier, 1 / 6)
    assert not promising(Score(9.0, 50, 12), earlier, 1 / 6)


def test_bytes_that_are_filled_up_decide_nothing() -> None:
    assert grains(999_900, 10**6) == grains(901_000, 10**6) == 10
    assert grains(899_000, 10**6) == 9


def test_plans_a_little_farther_than_the_best_go_on_as_long_as_they_are_few() -> None:
    """Simple plans that are smaller and far off are none of the third that does."""
    simple = [Score(0.8 + n / 10, grains(920_000 + 5_000 * n, 10**6), 2 * n) for n in range(10)]
    close = [Score(0.10 + n / 200, grains(999_000 + n, 10**6)) for n in range(20)]
    found = [promising(score, [*simple, *close[:n]], 1 / 3) for n, score in enumerate(close)]
    assert found == [True] * 6 + [False] * 14


def in_memory() -> optuna.Study:
    return optuna.create_study(directions=["minimize", "minimize"])


def add(study: optuna.Study, x: int, divergences: list[float], loss: float | None, *, removed: int = 4) -> None:
    """A trial that ended with a loss, or was pruned at the rung of its last divergence."""
    study.add_trial(
        optuna.create_trial(
            state=TrialState.PRUNED if loss is None else TrialState.COMPLETE,
            params={"x": x, "heal_steps": 25},
            distributions=dict.fromkeys(("x", "heal_steps"), optuna.distributions.IntDistribution(0, 99)),
            values=None if loss is None else [loss, 900],
            user_attrs={"divergences": divergences, "bytes": 900, "removed": removed},
        )
    )


def test_a_pruned_trial_is_seen_with_what_it_would_have_come_to() -> None:
    study = in_memory()
    for number in range(20):
        # closer is better, and so is keeping more
        add(study, number, [2.0**number, 2.0**number], 2 ** (4 + number / 10 + number % 3 / 10), removed=number % 3)
    add(study, 98, [math.nan, math.nan], 99.0)
    add(study, 20, [2.0**5], None, removed=0)
    add(study, 21, [2.0**5], None, removed=2)
    add(study, 22, [2.0**5, 2.0**15], None, removed=0)
    add(study, 23, [math.nan], None)
    add(study, 24, [2.0**30, 2.0**90], None)
    seen = SeenStudy(study).get_trials()
    assert [trial.state for trial in seen[21:]] == [*[TrialState.COMPLETE] * 3, TrialState.PRUNED, TrialState.COMPLETE]
    losses = [math.log2(trial.values[0]) for trial in seen[21:24]]
    assert losses == pytest.approx([4.5, 4.7, 5.5], abs=0.1)
    assert seen[25].values[0] == 100, "no loss is larger"
    assert [trial.values[1] for trial in seen[21:24]] == [900] * 3
    assert [trial.state for trial in study.trials[21:]] == [TrialState.PRUNED] * 5
    assert [x.number for x in SeenStudy(study).get_trials(states=(TrialState.PRUNED,))] == [24]
    assert [one.divergences[-1] for one in list(standings(study.trials).values())[-3:]] == [
        2.0**15,
        pytest.approx(math.nan, nan_ok=True),
        2.0**90,
    ]
    assert [one.loss for one in list(standings(study.trials).values())[20:22]] == [99.0, None]


def test_a_plan_closer_than_any_before_is_expected_to_be_better() -> None:
    """First trials of a study of bin 3, in which a square of the divergence made 0.15 the best there is."""
    study = in_memory()
    known = [(3.88, 0, 78.9), (2.72, 4, 63.6), (1.65, 8, 57.3), (0.79, 12, 56.8), (0.77, 16, 63.7), (1.07, 20, 82.3)]
    known += [(1.52, 1, 48.9), (0.120, 0, 16.0), (0.120, 0, 20.9), (2.14, 0, 45.1), (1.34, 4, 40.7), (0.77, 8, 45.8)]
    known += [(0.70, 12, 58.5), (1.00, 6, 39.0), (1.66, 0, 36.1), (0.93, 6, 33.9), (0.102, 0, 23.7)]
    for divergence, removed, loss in known:
        add(study, 1, [divergence, divergence], loss, removed=removed)
    for divergence in (0.05, 0.08, 0.12, 0.15, 0.3, 1.0):
        add(study, 1, [divergence], None, removed=0)
    losses = [trial.values[0] for trial in SeenStudy(study).get_trials()[len(known) :]]
    assert losses == sorted(losses)
    assert len(set(losses)) == len(losses)
    misleading = in_memory()
    for divergence, loss in [(2.8, 66.6), (3.6, 67.0), (1.8, 68.0), (1.5, 82.6), (4.9, 77.4)]:
        add(misleading, 1, [divergence, divergence], loss)
    for divergence in (0.1, 1.0):
        add(misleading, 1, [divergence], None)
    assert len({trial.values[0] for trial in SeenStudy(misleading).get_trials()[-2:]}) == 1


def standing(divergence: float, loss: float | None = None, *, removed: int = 0, **made_of: float) -> Standing:
    return Standing((divergence,), 900, removed, 25, made_of, loss)


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 3)), max_size=LEARNT - 1), st.integers(1, 9), st.integers(0, 3)
)
def test_before_enough_trials_are_complete_a_rung_ranks_what_it_measured(
    earlier: list[tuple[int, int]], divergence: int, removed: int
) -> None:
    known = [standing(float(one), 10.0, removed=gone, width=one) for one, gone in earlier]
    plain = promising(
        Score(float(divergence), 9, removed), [Score(float(one), 9, gone) for one, gone in earlier], 1 / 3
    )
    assert goes_on(standing(float(divergence), removed=removed, width=0.0), known, 1000, (1 / 3,)) == plain


def test_a_rung_learns_what_healing_makes_of_plans() -> None:
    """Plans are equally close, and narrow ones heal better: known from so many complete trials on, not before."""
    rng = np.random.default_rng(0)
    known = [standing(rng.uniform(1, 2), 10.0 + 10 * width, width=width) for width in np.linspace(0, 1, LEARNT)]
    pruned = [standing(rng.uniform(1, 2), width=width) for width in rng.uniform(0, 1, 20)]
    narrow, wide = standing(1.9, width=0.1), standing(1.1, width=0.9)
    for learnt, earlier in ((True, [*known, *pruned]), (False, [*known[1:], *pruned])):
        assert goes_on(narrow, earlier, 1000, (1 / 4,)) == learnt
        assert goes_on(wide, earlier, 1000, (1 / 4,)) != learnt
    close, far = expected([standing(1.1, width=0.5), standing(1.9, width=0.5)], known, 0)
    assert close <= far
    assert expected([narrow, wide], known, 0) == pytest.approx([11, 19], abs=2.5)
    assert not goes_on(standing(math.nan, width=0.1), [*known, *pruned], 1000, (1 / 4,))


def test_trials_of_earlier_versions_are_ranked_by_what_is_known_of_them() -> None:
    """One trial without traits, and none counts: a rung ranks by what it measured."""
    known = [standing(2.0 - n / 20, 10.0 + n, width=n / 20) for n in range(20)]
    mine = standing(1.9, width=0.05)
    assert goes_on(mine, known, 1000, (1 / 4,))
    assert not goes_on(mine, [*known, standing(1.5)], 1000, (1 / 4,))
    stripped = [replace(one, traits={}) for one in known]
    asked = [standing(1.2), standing(1.8, width=0.8)]
    assert expected(asked, known, 0) == pytest.approx(expected([replace(x, traits={}) for x in asked], stripped, 0))


def test_far_from_all_that_is_known_expectations_stay_in_bounds() -> None:
    for losses in ((60.0, 30.0), (30.0, 60.0), (0.0, 30.0)):
        known = [standing(1.0, loss, removed=n) for n, loss in enumerate(losses)]
        found = expected([standing(1.0, removed=far) for far in (60, 100)], known, 0)
        assert np.all(found >= max(0.5, min(losses)) / 4 * 0.999)
        assert np.all(found <= 100.001)


def test_one_perfect_trial_does_not_lead_the_others_astray() -> None:
    known = [standing(1.0 + n / 20, 10.0 + n / 2, width=n / 20) for n in range(20)]
    asked = [standing(1.2, width=0.2), standing(1.8, width=0.8)]
    plain, with_perfect = (expected(asked, [*known, *more], 0) for more in ([], [standing(1.5, 0.0, width=0.5)]))
    assert with_perfect == pytest.approx(plain, rel=0.35)


def test_samplers_see_settled_losses() -> None:
    study = in_memory()
    for x, (loss, divergence) in enumerate([(30.0, 0.1), (10.0, 0.2), (50.0, 0.3)]):
        study.add_trial(
            create_trial(
                params={"x": x},
                distributions={"x": optuna.distributions.IntDistribution(0, 99)},
                values=[loss, 900.0],
                user_attrs={HEALED: divergence},
            )
        )
    seen = [trial.values[0] for trial in SeenStudy(study).get_trials()]
    assert seen == settled_losses(study.trials) != [trial.values[0] for trial in study.trials]


def test_pruned_trials_stay_where_nothing_is_complete() -> None:
    study = in_memory()
    add(study, 1, [2.0], None)
    assert [trial.state for trial in SeenStudy(study).get_trials()] == [TrialState.PRUNED]
    add(study, 2, [2.0, 2.0], 40.0)
    assert SeenStudy(study).get_trials()[0].values[0] == pytest.approx(40.0)


@given(st.integers(1, 12), st.integers(1, 4), st.integers(0, 99))
def test_ridge_is_least_squares_with_a_price_of_weights(count: int, features: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    known, values, asked = rng.normal(size=(count, features)), rng.normal(size=count), rng.normal(size=(3, features))
    scale = np.where(known.std(0) == 0, 1, known.std(0))
    table = (known - known.mean(0)) / scale
    rows = np.concatenate([table, math.sqrt(0.5) * np.eye(features)])
    weights = np.linalg.lstsq(rows, np.concatenate([values - values.mean(), np.zeros(features)]))[0]
    plain = values.mean() + (asked - known.mean(0)) / scale @ weights
    assert ridge(known, values, asked, 0.5) == pytest.approx(plain)


def test_samplers_learn_from_pruned_trials() -> None:
    """What lies near the optimum was pruned, as most good trials are; the rest says little of where it is."""
    study = in_memory()
    for x in range(0, 100, 4):
        score = abs(x - 30) + 1.0
        add(study, x, [score] if x < 60 else [score, score], None if x < 60 else score)

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


def anyone(_trial: FrozenTrial) -> bool:
    return True


def test_finalists_are_the_best_and_each_plan_is_one() -> None:
    study = in_memory()
    for x, steps, loss in ((0, 25, 40.0), (1, 25, 30.0), (2, 50, 35.0), (1, 50, 20.0), (3, 0, 60.0)):
        study.add_trial(
            optuna.trial.create_trial(
                params={"x": x, "heal_steps": steps},
                distributions=dict.fromkeys(("x", "heal_steps"), optuna.distributions.IntDistribution(0, 99)),
                values=[loss, 900.0],
                user_attrs={"baseline": "uniform"} if x in (0, 3) else {},
            )
        )
    add(study, 9, [0.1], None)
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    chosen = choose(complete, 3, anyone)
    assert [trial.values[0] for trial in chosen] == [20.0, 35.0, 40.0]
    assert best_of_kind(complete, "baseline") == chosen[-1]
    assert [trial.values[0] for trial in choose(complete, 9, anyone)] == [20.0, 35.0, 40.0, 60.0]
    assert choose([], 3, anyone) == []
    assert best_of_kind(complete, "allocator") is None


def test_finalists_of_a_range_are_chosen_by_what_all_ranges_say_of_healing() -> None:
    """Of the range's two the second was lucky: by itself it is the better one, beside the others it is not."""
    others = healed_trials([30.0, 50.0] * 15, [0.1, 0.3] * 15)
    here = healed_trials([40.0, 38.0], [0.1, 0.3])
    for number, trial in enumerate([*others, *here]):
        trial.number, trial.params = number, {"x": number}
    assert choose(here, 1, anyone) == [here[1]]
    assert choose([*others, *here], 1, lambda one: one in here) == [here[0]]
    here[0].user_attrs["baseline"] = here[1].user_attrs["baseline"] = "uniform"
    assert best_of_kind([*others, *here], "baseline") is here[0]


def healed_trials(losses: Sequence[float], divergences: Sequence[float | None]) -> list[FrozenTrial]:
    return [
        create_trial(values=[loss, 100.0], user_attrs={} if divergence is None else {HEALED: divergence})
        for loss, divergence in zip(losses, divergences, strict=True)
    ]


def settled_losses(trials: Sequence[FrozenTrial]) -> list[float]:
    return [trial.values[0] for trial in settled(trials)]


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 10)), min_size=1, max_size=30))
def test_settled_losses_have_the_mean_and_lie_between_those_found(pairs: list[tuple[float, float]]) -> None:
    losses, divergences = zip(*pairs, strict=True)
    found = settled_losses(healed_trials(losses, divergences))
    assert np.mean(found) == pytest.approx(np.mean(losses))
    assert min(losses) - 1e-9 <= min(found)
    assert max(found) <= max(losses) + 1e-9


@given(st.lists(st.floats(0, 100), min_size=1, max_size=30))
def test_losses_that_rise_with_divergences_are_settled(losses: list[float]) -> None:
    losses.sort()
    assert settled_losses(healed_trials(losses, list(range(len(losses))))) == pytest.approx(losses)


def test_losses_without_a_divergence_stay() -> None:
    trials = healed_trials([50.0, 10.0, 30.0, 20.0], [None, 0.5, float("nan"), 0.1])
    pruned = create_trial(state=TrialState.PRUNED, user_attrs={HEALED: 0.2})
    # 10 and 20 are in the wrong order: 15 is what both can be expected to have
    assert settled_losses(trials) == pytest.approx([50.0, 13.75, 30.0, 16.25])
    assert settled([*trials, pruned])[4] is pruned
    assert trials[1].values[0] == 10.0, "what was found is kept"


def test_settled_losses_say_more_of_plans_than_single_draws() -> None:
    """As measured: a loss's noise is twice what plans differ by, a divergence's half of it."""
    rng, gains = np.random.default_rng(0), []
    for _ in range(20):
        worth = rng.normal(12, 1.5, 60)
        draws = worth + rng.normal(0, 3, 60)
        divergences = np.exp(-3 + 0.12 * (worth - 12) + rng.normal(0, 0.1, 60))
        after = settled_losses(healed_trials(draws.tolist(), divergences.tolist()))
        gains.append(np.corrcoef(after, worth)[0, 1] - np.corrcoef(draws, worth)[0, 1])
    assert np.mean(gains) > 0.15
