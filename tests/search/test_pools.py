"""One suite for all pools: what is asked of a pool, and what becomes of workers that raise, die, hang."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from models.loading import Source
from search.baselines import losses_of
from search.gates import DEFAULT, Gate
from search.loop import BREAKS, FAILURE, Terms, run_trials
from search.pareto import sampler_over
from search.pools.cluster import Cluster, connected
from search.pools.here import InProcess
from search.pools.pool import Broken, Evaluated, Evaluation, Event, Pool, Reached, Refused, Task
from search.pools.processes import Processes
from space.bins import bin_range
from space.errors import UserError
from space.genes import HEAL_STEPS
from space.limits import Limits
from space.plan import Plan, uniform_plan
from space.rates import WHOLE
from tests.search import stand
from tests.tiny import load_tiny

# Until a worker is ready, or one is replaced.
_PATIENCE = 300.0
_MOST_WORKERS = 9

MakePool = Callable[..., Pool]


Fates = Mapping[int, int]


def in_process(folder: Path, workers: int = 1, patience: float = _PATIENCE, fates: Fates | None = None) -> Pool:
    return InProcess(stand.stand(folder, fates=fates))


def processes(folder: Path, workers: int = 1, patience: float = _PATIENCE, fates: Fates | None = None) -> Pool:
    return Processes([partial(stand.stand, folder, fates=fates)] * workers, 1, folder / "logs", patience)


def cluster(folder: Path, workers: int = 1, patience: float = _PATIENCE, fates: Fates | None = None) -> Pool:
    return Cluster(partial(stand.stand, folder, fates=fates), workers, patience=patience)


POOLS = {"in process": in_process, "processes": processes, "Ray": cluster}
# Whose workers are other processes than the driver.
OTHERS = {name: make for name, make in POOLS.items() if name != "in process"}
# What pools say of a worker that was killed, or that left: Ray does not know how.
KILLED = {processes: "was killed by SIGKILL, for want of memory perhaps", cluster: "was killed, for want of memory"}
LEFT = {processes: "left with status 7", cluster: "was killed, for want of memory perhaps"}
HUNG = dict.fromkeys(KILLED, "hung for 2 seconds")


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    """A Ray of this module's own, in which no other process can be by accident."""
    with connected(cpus=_MOST_WORKERS):
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return load_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def plan(source: Source) -> Plan:
    return uniform_plan(source.layout, WHOLE)


@pytest.fixture(params=POOLS.values(), ids=POOLS)
def make(request: pytest.FixtureRequest) -> MakePool:
    return _needed(request)


@pytest.fixture(params=OTHERS.values(), ids=OTHERS)
def make_other(request: pytest.FixtureRequest) -> MakePool:
    return _needed(request)


def _needed(request: pytest.FixtureRequest) -> MakePool:
    found: MakePool = request.param
    if found is cluster:
        request.getfixturevalue("ray")
    return found


def until_free(pool: Pool, workers: int = 1) -> None:
    end = time.monotonic() + _PATIENCE
    while pool.free < workers:
        assert time.monotonic() < end, "no worker became free"
        assert not pool.events(0.1)


def heard(pool: Pool, count: int = 1) -> list[Event]:
    """The next events."""
    found: list[Event] = []
    end = time.monotonic() + _PATIENCE
    while len(found) < count:
        assert time.monotonic() < end, f"only {found}"
        found += pool.events(0.1)
    return found


def task(plan: Plan, number: int, seed: int | None = None, gate: Gate = DEFAULT) -> Task:
    return Task(number, plan, number if seed is None else seed, gate)


def test_a_task_goes_rung_by_rung(make: MakePool, tmp_path: Path, plan: Plan) -> None:
    with closing(make(tmp_path)) as pool:
        until_free(pool)
        for goes_on in ((True, True), (True, False), (False,)):
            pool.begin(task(plan, 3))
            assert pool.free == 0
            for rung, on in enumerate(goes_on, 1):
                assert heard(pool) == [Reached(3, (3.0,) * rung)]
                pool.answer(3, on)
            (ended,) = heard(pool)
            assert isinstance(ended, Evaluated)
            assert ended.number == 3
            assert len(ended.evaluation.divergences) == len(goes_on)
            assert (ended.evaluation.loss is None) == (not all(goes_on))
            assert pool.free == 1


def test_workers_score_what_the_gate_of_each_task_says(make: MakePool, tmp_path: Path, plan: Plan) -> None:
    with closing(make(tmp_path)) as pool:
        until_free(pool)
        for sizes in ((4, 48), (16, 48)):
            pool.begin(task(plan, 3, stand.TELLS, Gate("loss", sizes)))
            assert heard(pool) == [Reached(3, tuple(map(float, sizes)))]
            pool.answer(3, True)
            heard(pool)
            pool.answer(3, False)
            assert isinstance(heard(pool)[0], Evaluated)


def test_nothing_happens_where_nothing_was_begun(make: MakePool, tmp_path: Path) -> None:
    with closing(make(tmp_path)) as pool:
        until_free(pool)
        assert pool.events(0.01) == []


def test_what_raises_is_broken_and_its_worker_lives(make: MakePool, tmp_path: Path, plan: Plan) -> None:
    with closing(make(tmp_path)) as pool:
        until_free(pool)
        for seed, word in ((stand.RAISES, "ValueError in "), (stand.EATS, "MemoryError in ")):
            pool.begin(task(plan, 0, seed))
            heard(pool)
            pool.answer(0, True)
            (broken,) = heard(pool)
            assert isinstance(broken, Broken)
            assert broken.reason.startswith(broken.cause)
            assert word in broken.cause
            assert pool.free == 1


def test_a_full_disk_is_for_the_user(make: MakePool, tmp_path: Path, plan: Plan) -> None:
    with closing(make(tmp_path)) as pool:
        until_free(pool)
        pool.begin(task(plan, 0, stand.REFUSES))
        heard(pool)
        pool.answer(0, True)
        (refused,) = heard(pool)
        assert isinstance(refused, Refused)
        assert refused.number == 0
        assert "No space left on device" in refused.reason


@pytest.mark.parametrize(("seed", "words"), [(stand.DIES, KILLED), (stand.LEAVES, LEFT), (stand.HANGS, HUNG)])
def test_a_worker_that_dies_or_hangs_is_replaced(
    make_other: MakePool, tmp_path: Path, plan: Plan, seed: int, words: Mapping[MakePool, str]
) -> None:
    with closing(make_other(tmp_path, patience=2.0)) as pool:
        until_free(pool)
        pool.begin(task(plan, 8, seed))
        heard(pool)
        pool.answer(8, True)
        (broken,) = heard(pool)
        assert isinstance(broken, Broken)
        assert broken.number == 8
        assert broken.reason.startswith(broken.cause)
        assert words[make_other] in broken.reason
        until_free(pool)
        pool.begin(task(plan, 9))
        assert heard(pool) == [Reached(9, (9.0,))]


def test_workers_work_at_once(make_other: MakePool, tmp_path: Path, plan: Plan) -> None:
    with closing(make_other(tmp_path, 2)) as pool:
        until_free(pool, 2)
        pool.begin(task(plan, 1))
        pool.begin(task(plan, 2))
        assert pool.free == 0
        assert sorted(event.number or 0 for event in heard(pool, 2)) == [1, 2]
        for number in (2, 1):
            pool.answer(number, True)
        heard(pool, 2)
        for number in (1, 2):
            pool.answer(number, True)
        found = [event.evaluation.loss for event in heard(pool, 2) if isinstance(event, Evaluated)]
        assert len(set(found)) == 2, "each in a process of its own"


def test_closing_ends_workers_at_work(make_other: MakePool, tmp_path: Path, plan: Plan) -> None:
    with closing(make_other(tmp_path)) as pool:
        until_free(pool)
        pool.begin(task(plan, 1))
        heard(pool)
        pool.answer(1, True)
        heard(pool)
        pool.answer(1, True)
        (ended,) = heard(pool)
        assert isinstance(ended, Evaluated)
        process = int(ended.evaluation.loss or 0)
        pool.begin(task(plan, 2, stand.HANGS))
        heard(pool)
        pool.answer(2, True)
    end = time.monotonic() + _PATIENCE
    while Path(f"/proc/{process}").exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not Path(f"/proc/{process}").exists()


def test_workers_that_cannot_be_made_say_why(tmp_path: Path) -> None:
    with closing(Processes([partial(stand.bad_model, tmp_path)], 1)) as pool:
        assert heard(pool) == [Refused(None, "--model none: no such folder")]
    with (
        closing(Processes([partial(stand.stillborn, tmp_path)] * 2, 1, tmp_path / "logs")) as pool,
        pytest.raises(UserError, match=r"workers die before they are ready \(was killed by SIGKILL.*fewer --workers"),
    ):
        heard(pool)


@pytest.mark.usefixtures("ray")
def test_actors_that_cannot_be_made_say_why(tmp_path: Path) -> None:
    with closing(Cluster(partial(stand.bad_model, tmp_path), 1)) as pool:
        assert heard(pool) == [Refused(None, "--model none: no such folder")]
    with (
        closing(Cluster(partial(stand.stillborn, tmp_path), 2)) as pool,
        pytest.raises(UserError, match=r"workers die before they are ready \(was killed, for want of memory"),
    ):
        heard(pool)
    with (
        closing(Cluster(partial(stand.unmade, tmp_path), 1)) as pool,
        pytest.raises(UserError, match=r"workers die before they are ready \(raised ZeroDivisionError\)"),
    ):
        heard(pool)


@pytest.mark.usefixtures("ray")
def test_actors_without_room_are_waited_for_by_nobody(tmp_path: Path, plan: Plan) -> None:
    with closing(Cluster(partial(stand.stand, tmp_path), 2, cpus=_MOST_WORKERS - 1)) as pool:
        until_free(pool)
        pool.begin(task(plan, 1))
        assert heard(pool) == [Reached(1, (1.0,))]
        assert pool.events(0.1) == []
        assert pool.free == 0


# ---- the driver over pools


@pytest.fixture
def limits(source: Source) -> Limits:
    return Limits(source.layout, bin_range(2, source.layout.source_bytes), source.fixed_bytes)


@pytest.fixture
def study(source: Source, limits: Limits, tmp_path: Path) -> optuna.Study:
    study = optuna.create_study(storage=f"sqlite:///{tmp_path}/study.db", directions=["minimize", "minimize"])
    study.sampler = sampler_over([limits], "random", losses_of(limits, source.vocabulary.coverage), 0, HEAL_STEPS)
    return study


def driven(study: optuna.Study, pool: Pool, limits: Limits, total: int) -> list[FrozenTrial]:
    """The trials of a study that was gone on with to a total, in the order in which they ended."""
    ended: list[FrozenTrial] = []
    with closing(pool):
        run_trials(study, pool, Terms([limits], (), 0, "none", gate=Gate(survival=(1.0, 1.0))), total, ended.append)
    return ended


def test_every_pool_has_the_study_of_the_others(
    make: MakePool, tmp_path: Path, study: optuna.Study, limits: Limits
) -> None:
    ended = driven(study, make(tmp_path, 2), limits, 6)
    assert sorted(trial.number for trial in ended) == list(range(6))
    assert [trial.user_attrs["divergences"] for trial in study.trials] == [[i, i] for i in range(6)]
    assert all(trial.state == TrialState.COMPLETE for trial in study.trials)


class Lingering:
    """Workers whose first two rungs take no time, and whose last takes so long that all others are busy with theirs."""

    def __init__(self, workers: int) -> None:
        self._workers, self._rng = workers, random.Random(0)
        self._scores: dict[int, tuple[float, ...]] = {}
        self._due: deque[int] = deque()
        self._last: deque[int] = deque()
        self.went: dict[int, bool] = {}

    @property
    def free(self) -> int:
        return self._workers - len(self._scores)

    def begin(self, task: Task) -> None:
        self._scores[task.number] = (self._rng.random(),)
        self._due.append(task.number)

    def answer(self, number: int, goes_on: bool) -> None:
        self.went.setdefault(number, goes_on)
        scores = self._scores[number]
        if goes_on and len(scores) == 2:
            self._last.append(number)
            return
        if goes_on:
            self._scores[number] = (*scores, self._rng.random())
        self._due.append(number if goes_on else -1 - number)

    def events(self, _seconds: float) -> list[Event]:
        if self._due:
            number = self._due.popleft()
            if number >= 0:
                return [Reached(number, self._scores[number])]
            scores = self._scores.pop(-1 - number)
            return [Evaluated(-1 - number, Evaluation(scores, scores))]
        if not self._last:
            return []
        number = self._last.popleft()
        scores = self._scores.pop(number)
        return [Evaluated(number, Evaluation(scores, (*scores, 1.0), 100 * sum(scores) / 2, sum(scores) / 2))]

    def close(self) -> None:
        """Nothing is left behind."""


def test_trials_that_heal_are_not_what_all_others_are_held_against(study: optuna.Study, limits: Limits) -> None:
    """They are the winners of their rungs, and with many workers more than a rung looks at."""
    pool, sampler = Lingering(48), study.sampler
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    terms = Terms([limits], (), 0, "none", gate=Gate(survival=(0.5, 0.5)))
    run_trials(study, pool, terms, 400, lambda _trial: None)
    later = [went for number, went in pool.went.items() if number >= 200]
    assert 0.4 < sum(later) / len(later) < 0.65, "0.2 where running trials are taken for the last"


def test_a_trial_is_tried_once_more_where_its_worker_died(
    make_other: MakePool, tmp_path: Path, study: optuna.Study, limits: Limits
) -> None:
    driven(study, make_other(tmp_path, fates={1: stand.DIES_ONCE}), limits, 3)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 3
    assert [trial.user_attrs.get(BREAKS) for trial in study.trials] == [None, 1, None]


@pytest.mark.parametrize(("fate", "words"), [(stand.DIES, KILLED), (stand.HANGS, HUNG)])
def test_a_plan_that_breaks_every_worker_fails_and_the_study_goes_on(
    make_other: MakePool,
    tmp_path: Path,
    study: optuna.Study,
    limits: Limits,
    *,
    fate: int,
    words: Mapping[MakePool, str],
) -> None:
    ended = driven(study, make_other(tmp_path, 2, patience=2.0, fates={2: fate}), limits, 6)
    assert len(ended) == len(study.trials) == 6
    states = [trial.state for trial in study.trials]
    assert states == [TrialState.FAIL if i == 2 else TrialState.COMPLETE for i in range(6)]
    assert words[make_other] in study.trials[2].user_attrs[FAILURE]


def test_a_plan_that_raises_fails_with_its_reason(
    make: MakePool, tmp_path: Path, study: optuna.Study, limits: Limits
) -> None:
    driven(study, make(tmp_path, fates={1: stand.RAISES}), limits, 3)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE]
    assert "a plan like 1000 is poison" in study.trials[1].user_attrs[FAILURE]


def test_five_failures_in_a_row_for_one_cause_end_the_study(
    make: MakePool, tmp_path: Path, study: optuna.Study, limits: Limits
) -> None:
    fates = dict.fromkeys((1, 2, 4, 5, 6, 7, 8), stand.RAISES)
    with pytest.raises(UserError, match=r"5 trials in a row failed, the last, trial 8, as ValueError in .*poison"):
        driven(study, make(tmp_path, fates=fates), limits, 12)
    ended = [trial for trial in study.trials if trial.state.is_finished()]
    assert [trial.state for trial in ended] == [
        TrialState.COMPLETE if i in (0, 3) else TrialState.FAIL for i in range(9)
    ]
    driven(study, make(tmp_path), limits, 12)
    assert sum(trial.state == TrialState.COMPLETE for trial in study.trials) == 5
    assert len(study.trials) == 12


def test_a_full_disk_ends_the_study_and_nothing_is_lost(
    make: MakePool, tmp_path: Path, study: optuna.Study, limits: Limits
) -> None:
    for _ in range(4):
        with pytest.raises(UserError, match="No space left on device"):
            driven(study, make(tmp_path, fates={1: stand.REFUSES}), limits, 4)
    before = {trial.number: trial.params for trial in study.trials}
    driven(study, make(tmp_path), limits, 4)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 4
    assert {number: study.trials[number].params for number in before} == before


def test_a_plan_that_ends_every_driver_fails_once_nothing_else_gets_done(
    tmp_path: Path, study: optuna.Study, limits: Limits
) -> None:
    def dies(times: int) -> None:
        for _ in range(times):
            with pytest.raises(KeyboardInterrupt):
                driven(study, in_process(tmp_path, fates={1: stand.STOPS}), limits, 3)

    dies(4)
    # another trial that was under way, of another worker say
    study.add_trial(optuna.trial.create_trial(values=[1.0, 2.0]))
    dies(5)
    assert study.trials[1].state == TrialState.RUNNING
    driven(study, in_process(tmp_path, fates={1: stand.STOPS}), limits, 4)
    assert [trial.state for trial in study.trials] == [
        TrialState.FAIL if i == 1 else TrialState.COMPLETE for i in range(4)
    ]
    assert study.trials[1].user_attrs[FAILURE] == "5 drivers in a row died with it"


def test_running_trials_count_towards_the_total_and_at_rungs(
    make_other: MakePool, tmp_path: Path, study: optuna.Study, limits: Limits
) -> None:
    """Nine trials reach a rung before any of them ends: those behind the first six are held against them."""
    with closing(make_other(tmp_path, 9)) as pool:
        until_free(pool, 9)
        ended: list[FrozenTrial] = []
        run_trials(study, pool, Terms([limits], (), 0, "none", gate=Gate(survival=(0.2, 0.2))), 9, ended.append)
    assert len(study.trials) == 9
    assert sum(trial.state == TrialState.PRUNED for trial in study.trials) >= 2
