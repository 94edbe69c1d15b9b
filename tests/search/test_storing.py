"""The storage of a study's only writer: it reads what changed, and tells what the database has."""

from __future__ import annotations

import gc
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import Engine, event

from search.storages import storage_of
from search.storing import DrivenStorage, PlanStorage

_PLAN = {"x": FloatDistribution(0, 1), "y": FloatDistribution(0, 1)}


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'study.db'}"


def driven(url: str) -> optuna.Study:
    storage = DrivenStorage(PlanStorage(url))
    return optuna.create_study(
        storage=storage, study_name="one", directions=["minimize", "minimize"], load_if_exists=True
    )


def fresh(url: str) -> list[FrozenTrial]:
    return optuna.load_study(storage=RDBStorage(url), study_name="one").trials


def step(study: optuna.Study, rng: random.Random) -> None:
    """Anything a driver does."""
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    match rng.randrange(9):
        case 0:
            study.enqueue_trial({"x": rng.random()}, user_attrs={"kind": rng.random()})
        case 1:
            study.ask().suggest_float("x", 0, 1)
        case 2 | 3:
            params = {"x": rng.random(), "y": rng.random()}
            template = create_trial(state=TrialState.RUNNING, params=params, distributions=_PLAN)
            study._storage.create_new_trial(study._study_id, template)
        case 4 if running:
            optuna.Trial(study, rng.choice(running)._trial_id).set_user_attr("begun", (rng.random(), 1))
        case 5 if running:
            study.tell(rng.choice(running).number, [rng.random(), 1.0])
        case 6 if running:
            study.tell(rng.choice(running).number, state=rng.choice([TrialState.PRUNED, TrialState.FAIL]))
        case 7 if running:
            found = optuna.Trial(study, rng.choice(running)._trial_id)
            found.set_constraint(f"outside {rng.random()}", 1.0)
            assert found.user_attrs == study._storage.get_trial(found._trial_id).user_attrs
        case 8:
            values = [rng.random(), 2.0]
            study.add_trial(create_trial(values=values, params={"x": 0.5}, distributions={"x": _PLAN["x"]}))


@pytest.mark.parametrize("seed", range(4))
def test_it_tells_what_the_database_has(url: str, seed: int) -> None:
    rng, study = random.Random(seed), driven(url)
    for i in range(60):
        if i == 30:
            # another driver, which takes it up
            study = driven(url)
        if rng.random() < 0.1:
            # another study of the same database
            other = optuna.create_study(storage=RDBStorage(url), study_name=f"{i}", directions=["minimize"] * 2)
            other.ask()
        step(study, rng)
        if rng.random() < 0.7:
            assert [study._storage.get_trial(one._trial_id) for one in fresh(url)] == fresh(url)
            assert study.trials == fresh(url)
    assert study.trials == fresh(url)
    assert len({trial.state for trial in study.trials}) >= 4, "the steps taken are of all kinds"


def test_trials_that_run_are_not_read_again(url: str) -> None:
    study = driven(url)
    asked = [study.ask() for _ in range(20)]
    assert len(study.trials) == 20
    statements: list[str] = []
    event.listen(
        study._storage._backend.engine,
        "before_cursor_execute",
        lambda _connection, _cursor, statement, *_: statements.append(statement),
    )
    assert len(study.trials) == 20
    assert not statements
    for trial in asked:
        trial.set_user_attr("begun", 2)
        study.tell(trial, [1.0, 2.0])
    statements.clear()
    assert all(one.user_attrs == {"begun": 2} and one.values == [1.0, 2.0] for one in study.trials)
    assert study._storage.get_trial(asked[7]._trial_id).state == TrialState.COMPLETE
    assert not statements


def test_what_is_given_is_not_what_is_kept(url: str) -> None:
    study = driven(url)
    trial = study.ask()
    given = study._storage.get_trial(trial._trial_id)
    given.params["x"], given.distributions["x"] = 1.0, FloatDistribution(0, 1)
    given.system_attrs["fixed_params"], given.intermediate_values[0] = {}, 1.0
    trial._cached_frozen_trial.user_attrs["begun"] = 1
    assert study._storage.get_trial(trial._trial_id) == fresh(url)[0]
    assert study.trials == fresh(url)


@pytest.mark.parametrize("ended", [False, True])
def test_a_trial_whose_creation_was_not_replied_to_is_not_lost(
    url: str, ended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = driven(url)
    trials = [study.ask() for _ in range(3)]
    study.tell(trials[0], [1.0, 2.0])
    assert len(study.trials) == 3
    create = PlanStorage._create_new_trial

    def twice(storage: PlanStorage, *arguments: Any) -> FrozenTrial:
        create(storage, *arguments)
        return create(storage, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(PlanStorage, "_create_new_trial", twice)
        asked = study.ask()
        if ended:
            study.tell(asked, [1.0, 2.0])
    assert study.trials == fresh(url)
    assert [trial.number for trial in study.trials] == list(range(5))
    study.ask()
    assert study.trials == fresh(url)


def test_a_write_that_fails_is_looked_up(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    study = driven(url)
    trial = study.ask()
    assert study.trials[0].user_attrs == {}
    write = PlanStorage.set_trial_user_attr

    def away(storage: PlanStorage, trial_id: int, key: str, value: object) -> None:
        # the server took it, and was gone before it said so
        write(storage, trial_id, key, value)
        raise optuna.exceptions.StorageInternalError

    monkeypatch.setattr(PlanStorage, "set_trial_user_attr", away)
    with pytest.raises(optuna.exceptions.StorageInternalError):
        trial.set_user_attr("begun", 1)
    assert study.trials[0].user_attrs == {"begun": 1}


def test_studies_that_begin_at_the_same_time_make_one_database(tmp_path: Path) -> None:
    together = threading.Barrier(4)

    def begin(number: int, url: str) -> None:
        together.wait()
        with storage_of(url) as storage:
            optuna.create_study(storage=storage, study_name=f"bin{number}")

    with ThreadPoolExecutor(4) as threads:
        for i in range(5):
            new = f"sqlite:///{tmp_path / f'{i}.db'}"
            list(threads.map(begin, range(4), [new] * 4))
            assert sorted(optuna.get_all_study_names(new)) == ["bin0", "bin1", "bin2", "bin3"]


class Killed(BaseException):
    """As a signal that nothing catches."""


def killed_behind(url: str, statements: int) -> bool:
    """Makes a database and is killed behind so many statements; whether there were as many."""
    left = statements

    def count(*_: object) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise Killed

    event.listen(Engine, "after_cursor_execute", count)
    try:
        with storage_of(url):
            return False
    except Killed:
        return True
    finally:
        event.remove(Engine, "after_cursor_execute", count)


def test_a_database_whose_making_was_killed_at_any_statement_knows_a_study_once(tmp_path: Path) -> None:
    kills = 0
    while killed_behind(url := f"sqlite:///{tmp_path / f'{kills}.db'}", kills + 1):
        gc.collect()  # of who was killed no connection is left, which might hold a lock
        with storage_of(url) as storage:
            for _ in range(2):
                optuna.create_study(storage=storage, study_name="bin3", load_if_exists=True)
            assert optuna.get_all_study_names(storage) == ["bin3"]
        kills += 1
    assert kills > 20
