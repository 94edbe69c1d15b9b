"""Asking for a trial in one piece: the same proposals as Optuna's way, in a few transactions, whoever is killed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import optuna
import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy import event

from models.loading import Source
from search.asking import asked
from search.baselines import losses_of
from search.loop import limits_of, suggest
from search.pareto import sampler_over
from search.samplers import SAMPLER_NAMES
from search.storing import PlanStorage
from space.bins import bin_range
from space.genes import HEAL_STEPS, distributions, encode
from space.limits import Limits
from space.plan import Plan, removed_sublayers
from tests.tiny import load_tiny

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return load_tiny(tmp_path_factory.mktemp("tiny"))


def ranges_of(source: Source, numbers: Sequence[int]) -> list[Limits]:
    return [
        Limits(source.layout, bin_range(number, source.layout.source_bytes), source.fixed_bytes) for number in numbers
    ]


def study_of(source: Source, name: str, numbers: Sequence[int], storage: RDBStorage | None = None) -> optuna.Study:
    study = optuna.create_study(storage=storage, directions=["minimize", "minimize"])
    ranges = ranges_of(source, numbers)
    study.sampler = sampler_over(ranges, name, losses_of(ranges[0], source.vocabulary.coverage), 0, HEAL_STEPS)
    return study


def run(study: optuna.Study, source: Source, numbers: Sequence[int], trials: int, *, whole: bool) -> list[Plan]:
    ranges, plans = ranges_of(source, numbers), []
    for _ in range(trials):
        trial = asked(study) if whole else study.ask()
        plans.append(suggest(trial, source.layout, HEAL_STEPS))
        size = limits_of(study.trials[trial.number].user_attrs, ranges).bytes_of(plans[-1])
        for name, value in (("bytes", size), ("divergences", [1.0]), ("removed", removed_sublayers(plans[-1]))):
            trial.set_user_attr(name, value)
        study.tell(trial, [removed_sublayers(plans[-1]) + 1e5 / size, size])
    return plans


@pytest.mark.parametrize("name", SAMPLER_NAMES)
@pytest.mark.parametrize("numbers", [(2,), (3, 2, 1)])
def test_the_same_is_proposed_as_when_the_study_is_asked(source: Source, name: str, numbers: Sequence[int]) -> None:
    trials = 18 if name == "policy" else 5
    here, there = (study_of(source, name, numbers) for _ in range(2))
    assert run(here, source, numbers, trials, whole=True) == run(there, source, numbers, trials, whole=False)
    assert [one.user_attrs for one in here.trials] == [one.user_attrs for one in there.trials]
    assert [one.distributions for one in here.trials] == [one.distributions for one in there.trials]


@pytest.fixture
def storage(tmp_path: Path) -> RDBStorage:
    return RDBStorage(f"sqlite:///{tmp_path / 'study.db'}")


@pytest.mark.parametrize("name", ["policy", "swap"])
def test_a_proposal_is_a_few_transactions_however_many_parameters(
    source: Source, storage: RDBStorage, name: str
) -> None:
    study = study_of(source, name, (3, 2, 1), storage)
    run(study, source, (3, 2, 1), 2, whole=True)
    commits: list[object] = []
    event.listen(storage.engine, "commit", commits.append)
    trial = asked(study)
    suggest(trial, source.layout, HEAL_STEPS)
    assert len(trial.params) == len(distributions(source.layout, HEAL_STEPS)) > 20
    assert 0 < len(commits) < 10, "the trial, and what is read of the study"


def test_who_takes_it_up_after_a_kill_gets_the_plan(source: Source, storage: RDBStorage) -> None:
    study = study_of(source, "policy", (2,), storage)
    run(study, source, (2,), 2, whole=True)
    killed = asked(study)
    (left,) = study.get_trials(states=(TrialState.RUNNING,))
    taken = optuna.Trial(study, left._trial_id)
    plan = suggest(taken, source.layout, HEAL_STEPS)
    assert encode(plan, source.layout) == left.params == killed.params
    assert asked(study).number == killed.number + 1


def test_what_waits_comes_first(source: Source) -> None:
    study = study_of(source, "policy", (2,))
    plan = run(study_of(source, "policy", (2,)), source, (2,), 1, whole=True)[0]
    asked(study)
    study.enqueue_trial(encode(plan, source.layout))
    assert suggest(asked(study), source.layout, HEAL_STEPS) == plan


@pytest.mark.parametrize("state", [TrialState.RUNNING, TrialState.COMPLETE, TrialState.WAITING])
def test_a_whole_trial_is_stored_as_optuna_stores_it(source: Source, tmp_path: Path, state: TrialState) -> None:
    plan = run(study_of(source, "policy", (2,)), source, (2,), 1, whole=True)[0]
    space = distributions(source.layout, HEAL_STEPS)
    template = optuna.trial.create_trial(
        state=state,
        params=encode(plan, source.layout),
        distributions=space,
        user_attrs={"policy": {"depth": 0.5}},
        values=[1.0, 2.0] if state == TrialState.COMPLETE else None,
    )
    found = []
    for kind in (RDBStorage, PlanStorage):
        url = f"sqlite:///{tmp_path / kind.__name__}.db"
        study = optuna.create_study(storage=kind(url), directions=["minimize", "minimize"], study_name="one")
        statements: list[object] = []
        event.listen(
            study._storage._backend.engine, "before_cursor_execute", lambda *_, said=statements: said.append(1)
        )
        study.add_trial(template)
        (trial,) = optuna.load_study(storage=RDBStorage(url), study_name="one").trials
        found.append((trial.state, trial.params, trial.distributions, trial.user_attrs, trial.values, len(statements)))
    assert found[0][:-1] == found[1][:-1]
    assert found[1][1] == template.params
    assert found[1][-1] < len(space) < found[0][-1]
