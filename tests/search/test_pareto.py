"""A study over all sizes: every trial inside its range, ranges learn from each other, one front out of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist, fmean
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import FrozenTrial, TrialState, create_trial

import launch
from compress.checkpoint import folder_bytes
from models.loading import Source
from search.baselines import few_starts, losses_of
from search.gates import Gate
from search.loop import Terms, limits_of, run_trials, suggest
from search.pareto import ParetoSampler, RangeStudy, placed, sampler_over, size_over
from search.pools.here import InProcess
from search.pools.pool import Evaluation, Rungs
from search.rungs import RANGE
from search.samplers import SAMPLER_NAMES, BredStudy, PolicySampler, sampler_named
from search.values import Values
from space.bins import REFERENCE_BYTES, all_ranges, bin_of, bin_range
from space.genes import HEAL_STEPS, distributions, encode
from space.limits import Limits
from space.plan import Heal, Plan, removed_sublayers
from tests.tiny import load_tiny, write_roles, write_tiny

# Optuna calls some of its samplers experimental.
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
ended = st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 100), st.booleans()), max_size=30)


def of(name: str, loss: float, *, complete: bool = True) -> FrozenTrial:
    state = TrialState.COMPLETE if complete else TrialState.PRUNED
    return create_trial(state=state, values=[loss, 1.0] if complete else None, user_attrs={RANGE: name})


@given(ended)
def test_places_keep_the_order_within_a_range_and_mean_the_same_in_all(told: list[tuple[str, float, bool]]) -> None:
    trials = [of(name, loss, complete=complete) for name, loss, complete in told]
    found = placed(trials)
    assert [trial.values and trial.values[1:] for trial in found] == [
        trial.values and trial.values[1:] for trial in trials
    ]
    for name in "abc":
        before, after = (
            [one.values[0] for one in some if one.values and one.user_attrs[RANGE] == name] for some in (trials, found)
        )
        assert sorted(range(len(before)), key=before.__getitem__) == sorted(range(len(after)), key=after.__getitem__)
        assert [one == other for one, other in pairwise(sorted(before))] == [
            one == other for one, other in pairwise(sorted(after))
        ]
        if after:
            # every range has the same mean rank
            assert fmean(NormalDist().cdf(math.log(loss)) for loss in after) == pytest.approx(0.5)


def test_ranges_are_the_bins_and_one_between_each_two() -> None:
    found = all_ranges(REFERENCE_BYTES)
    assert found[::2] == tuple(bin_range(number, REFERENCE_BYTES) for number in (5, 4, 3, 2, 1))
    bounds = [one.bound_bytes for one in found]
    assert bounds == sorted(set(bounds))
    assert all(larger / smaller < 1.7 for smaller, larger in pairwise(bounds))
    assert all(one.least_bytes < one.bound_bytes for one in found)
    assert len({one.name for one in found}) == len(found) == 9


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return load_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def ranges(source: Source) -> list[Limits]:
    return [
        Limits(source.layout, bin_range(number, source.layout.source_bytes), source.fixed_bytes) for number in (3, 2, 1)
    ]


def loss(limits: Limits, plan: Plan) -> float:
    return removed_sublayers(plan) + 1e5 / limits.bytes_of(plan)


def run(
    ranges: list[Limits], source: Source, name: str, trials: int, study: optuna.Study | None = None
) -> tuple[optuna.Study, list[Plan]]:
    study = study or optuna.create_study(directions=["minimize", "minimize"])
    losses = losses_of(ranges[0], source.vocabulary.coverage)
    study.sampler = sampler_over(ranges, name, losses, 0, HEAL_STEPS)
    plans = []
    for _ in range(trials):
        trial = study.ask()
        plans.append(suggest(trial, ranges[0].layout, HEAL_STEPS))
        limits = limits_of(study.trials[trial.number].user_attrs, ranges)
        assert limits.hold(plans[-1])
        trial.set_user_attr("bytes", limits.bytes_of(plans[-1]))
        study.tell(trial, [loss(limits, plans[-1]), limits.bytes_of(plans[-1])])
    return study, plans


@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_every_proposal_is_inside_its_range_and_ranges_come_in_turns(
    ranges: list[Limits], source: Source, name: str
) -> None:
    study, plans = run(ranges, source, name, 9)
    a_round = {"policy": 2, "allocator": 4}.get(name, 1)
    turns = [trial.user_attrs[RANGE] for trial in study.trials]
    assert turns == [f"bin {3 - number // a_round % 3}" for number in range(9)]
    assert plans == run(ranges, source, name, 9)[1]
    if name == "qmc":
        return  # points are counted in the study
    again = optuna.create_study(directions=["minimize", "minimize"])
    again.add_trials(study.trials[:8])
    assert run(ranges, source, name, 1, again)[1] == plans[8:]


def test_a_range_learns_from_the_others(ranges: list[Limits], source: Source) -> None:
    """From the place that policies have in theirs; exchanges are begun from plans of the range alone."""
    study, _ = run(ranges, source, "policy", 12)
    seen = RangeStudy(study, "bin 2")
    assert len(seen.get_trials()) == 12
    assert {trial.user_attrs[RANGE] for trial in seen.told()} == {"bin 2"}
    of_places = sorted({round(trial.values[0], 6) for trial in seen.get_trials()})
    assert len(of_places) == 4, "the four of each range have its places, not their losses"
    assert fmean(map(math.log, of_places)) == pytest.approx(0, abs=1e-6)
    assert all(any(key.startswith("policy on") for key in trial.user_attrs) for trial in seen.get_trials())


def test_what_breeds_sees_a_range_as_others_do(ranges: list[Limits], source: Source) -> None:
    """But that all that ended is of a generation, the first unless it says another."""
    study, _ = run(ranges, source, "nsga2", 24)
    study.enqueue_trial(study.trials[0].params, user_attrs={RANGE: "bin 2"})
    seen = RangeStudy(study, "bin 2")
    bred = BredStudy(seen, "generation")
    assert [trial.values for trial in bred.trials] == [trial.values for trial in seen.trials]
    assert [trial.system_attrs.get("generation") for trial in bred.trials] == [0] * 24 + [None]


def test_values_are_learnt_from_trials_of_the_range(
    ranges: list[Limits], source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A place in another range says what policies are worth here, not what options cost."""
    study, _ = run(ranges, source, "allocator", 48)
    learnt: list[list[Plan]] = []
    after = Values.after

    def noted(self: Values, plans: list[Plan], losses: list[float]) -> Callable[[int], Plan]:
        learnt.append(plans)
        return after(self, plans, losses)

    monkeypatch.setattr(Values, "after", noted)
    run(ranges, source, "allocator", 3, study)
    assert learnt
    for plans in learnt:
        assert 16 <= len(plans) <= 18
        assert all(ranges[0].hold(plan) for plan in plans)


def test_what_the_allocator_makes_of_no_policy_is_known_in_all_ranges(ranges: list[Limits], source: Source) -> None:
    losses, heal = losses_of(ranges[0], source.vocabulary.coverage), Heal(HEAL_STEPS)
    study = optuna.create_study(directions=["minimize", "minimize"])
    for limits in ranges:
        for start in few_starts(limits, losses, heal, 20):
            study.add_trial(
                create_trial(
                    params=encode(start.plan, limits.layout),
                    distributions=distributions(limits.layout, HEAL_STEPS),
                    values=[loss(limits, start.plan), 1.0],
                    user_attrs=dict(start.kept),
                )
            )
    sampler = sampler_named("policy", ranges[1], losses, 0)
    assert isinstance(sampler, PolicySampler)
    told = sampler._told(RangeStudy(study, "bin 2").get_trials())
    assert [set(sampler._policy_of(one).params.values()) for one in told] == [{0.0}] * len(ranges)


def test_of_one_range_all_is_as_without(ranges: list[Limits], source: Source) -> None:
    study, _ = run(ranges[:1], source, "policy", 2)
    assert not isinstance(study.sampler, ParetoSampler)
    assert all(RANGE not in trial.user_attrs for trial in study.trials)
    weigh = size_over(ranges[:1])
    assert [weigh(trial) for trial in study.trials] == [10, 10]


def test_sizes_of_several_ranges_are_their_places(ranges: list[Limits]) -> None:
    weigh = size_over(ranges)
    assert [weigh(of(f"bin {number}", 1.0)) for number in (3, 1)] == [0, 2]


def test_each_range_begins_with_a_few_plans_of_its_own(ranges: list[Limits], source: Source) -> None:
    losses, heal = losses_of(ranges[0], source.vocabulary.coverage), Heal(HEAL_STEPS)
    found = [(limits, few_starts(limits, losses, heal, 20)) for limits in ranges]
    names = [(start.kind, start.name) for _, some in found for start in some]
    assert len(set(names)) == len(names)
    for limits, some in found:
        assert all(limits.hold(one.plan) and one.plan.heal == heal for one in some)
        assert {one.kept[RANGE] for one in some} == {limits.size_range.name}
        assert [one.kind for one in some].count("allocator") == 1


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    folder, made = tmp_path_factory.mktemp("work"), tmp_path_factory.mktemp
    model, corpus = write_tiny(made("tiny")), write_roles(made("corpus"), (2, 2, 2, 2))
    small = ["--heal-steps", "2", "--trial-heal-steps", "2", "--rates", "packed"]
    words = ["--pareto", "--trials", "30", "--model", str(model), "--data", str(corpus), *small]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert launch.main(words) == 0
    return folder, words


def summary(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "studies/pareto/summary.json").read_text())
    return found


def test_a_search_over_all_sizes_ends_with_a_front(finished: tuple[Path, list[str]]) -> None:
    folder, _ = finished
    found = summary(folder)
    assert found["out_of_bin_trials"] == 0
    assert sum(found["trials"].values()) == 30
    rows, front = found["finalists"], found["front"]
    assert len({row["range"] for row in rows}) == len(rows) > 3
    assert {row["trial"] for row in front} <= {row["trial"] for row in rows}
    assert all(smaller["bytes_on_disk"] < larger["bytes_on_disk"] for smaller, larger in pairwise(front))
    assert all(smaller["select_chrf"] <= larger["select_chrf"] for smaller, larger in pairwise(front))
    source_bytes = found["source"]["bytes"]
    bounds = {one.name: one for one in all_ranges(source_bytes)}
    for row in rows:
        assert folder_bytes(folder / row["path"]) == row["bytes_on_disk"]
        assert bounds[row["range"]].holds(row["bytes_on_disk"])


def test_the_best_in_each_bin_are_submitted(
    finished: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder, _ = finished
    monkeypatch.chdir(folder)
    words = ["submit", "--study", "pareto", "--user", "FBK", "--contact", "A. Person", "--email", "a@example.org"]
    assert launch.main([*words, "--empty-as", ".", "--out", str(tmp_path)]) == 0
    message = (tmp_path / "message.txt").read_text(encoding="utf-8")
    found = summary(folder)
    best = {bin_of(row["bytes_on_disk"], found["source"]["bytes"]): row["bytes_on_disk"] for row in found["front"]}
    assert best
    lines = [line.strip() for line in message.splitlines()]
    assert [line for line in lines if line.startswith("Bin")] == [f"Bin{n}, primary (en-de, en-zh)" for n in best]
    assert [line for line in lines if line.startswith("Exact")] == [
        f"Exact storage size: {size_bytes:,} bytes" for size_bytes in best.values()
    ]


def test_the_same_command_goes_on_and_another_range_is_refused(
    finished: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, words = finished
    monkeypatch.chdir(folder)
    before = summary(folder)["finalists"]
    assert launch.main(words) == 0
    assert summary(folder)["finalists"] == before
    capsys.readouterr()
    assert launch.main(["--bin", "2", "--study", "pareto", *words[1:]]) == 2
    assert "range was" in capsys.readouterr().err


def test_a_bin_begins_with_the_plans_of_its_range(
    finished: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, words = finished
    monkeypatch.chdir(folder)
    assert launch.main(["--bin", "2", "--study", "two", "--warm-start", "pareto", *words[1:], "--finalists", "1"]) == 0
    study, pareto = (
        optuna.load_study(storage=f"sqlite:///studies/{name}/study.db", study_name=name) for name in ("two", "pareto")
    )
    warm = [trial.user_attrs["warm start"] for trial in study.trials if "warm start" in trial.user_attrs]
    assert warm
    taken = {pareto.trials[int(name.rpartition(" ")[2])].user_attrs[RANGE] for name in warm}
    assert taken == {"bin 2"}


@dataclass(frozen=True)
class Stand:
    """In a workbench's place: a plan is as close as it is told to be, and translates where every rung lets it on."""

    scores: Iterator[float]

    def rungs(self, plan: Plan, seed: int, gate: str) -> Rungs:
        score = next(self.scores)
        kept = (yield (score,)) and (yield (score, score))
        return Evaluation((score, score) if kept else (score,), (1.0,) * (2 + kept), 50.0 + score if kept else None)


@pytest.mark.parametrize("name", ["random", "swap"])
def test_rungs_stop_trials_beside_those_of_their_range(ranges: list[Limits], source: Source, name: str) -> None:
    """Whether the sampler names the range before the trial is stored or behind."""
    study = optuna.create_study(directions=["minimize", "minimize"])
    study.sampler = sampler_over(ranges, name, losses_of(ranges[0], source.vocabulary.coverage), 0, HEAL_STEPS)
    scores = (float(number) for number in range(1, 100))
    terms = Terms(ranges, (), 0, "none", gate=Gate(survival=(0.5, 0.5)))
    run_trials(study, InProcess(Stand(scores)), terms, 60, lambda _trial: None)
    for limits in ranges:
        here = [trial for trial in study.trials if trial.user_attrs[RANGE] == limits.size_range.name]
        assert [trial.state for trial in here[:6]] == [TrialState.COMPLETE] * 6, "until a rung has seen a few"
        stopped = [trial.state == TrialState.PRUNED for trial in here[6:]]
        assert 2 * sum(stopped) > len(stopped), "each is farther off than all before; some remove less, or are smaller"
