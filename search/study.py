"""The Optuna study: made or taken up, and the settings its trials share."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from search.driving import driven, this_driver
from search.rungs import settled
from search.settings import SearchSettings, differing
from search.storages import SQLITE, TakenError, file_of, shown, storage_errors, storage_of
from space import VERSION
from space.errors import UserError

# Two objectives, both minimised.
OBJECTIVES = ("100 - chrF after healing", "bytes")
# Attributes of a study: what its trials share, how many trials it was last asked for, who drives it or did last, and
# the version of the code that did.
SETTINGS, ASKED, DRIVER, CODE = "settings", "trials", "driver", "tightfit"
# In a study's folder: what is made if no storage is named, and what a journal may be called to be listed, too.
FILE, JOURNAL_FILE = "study.db", "study.log"


@contextmanager
def open_study(settings: SearchSettings, shared: dict[str, Any]) -> Iterator[optuna.Study]:
    """The study of this name, made or taken up by its driver.

    Raises UserError where settings differ, the storage fails, or somebody drives the study from somewhere else.
    """
    url = settings.storage or f"{SQLITE}{settings.folder / FILE}"
    try:
        with storage_errors(url), storage_of(url, driven=settings.study) as storage:
            yield _taken_up(storage, url, settings.study, shared)
    except TakenError:
        with stored_study(settings.root, settings.study, url, "--study") as study:
            holder = study.user_attrs.get(DRIVER, "another process")
        raise driven(f"study {settings.study!r} in {shown(url)}", holder) from None


def _taken_up(storage: BaseStorage, url: str, name: str, shared: dict[str, Any]) -> optuna.Study:
    study = optuna.create_study(
        storage=storage, study_name=name, directions=["minimize", "minimize"], load_if_exists=True
    )
    before = study.user_attrs.get(SETTINGS)
    if before is None and (study.get_trials(deepcopy=False) or len(study.directions) != len(OBJECTIVES)):
        raise UserError(f"study {name!r} in {shown(url)} was not made by tightfit; choose another --study")
    if before is None:
        study.set_metric_names(list(OBJECTIVES))
        study.set_user_attr(SETTINGS, shared)
    else:
        _refuse_difference(name, before, shared)
    study.set_user_attr(DRIVER, this_driver())
    study.set_user_attr(CODE, VERSION)
    return study


@contextmanager
def stored_study(root: Path, name: str, url: str | None, option: str) -> Iterator[optuna.Study]:
    """The study called `name` in the folder `root`, or in the storage of an `url`; nothing is made.

    Raises UserError where there is none, which names the `option` that asked for it, or where the storage fails.
    """
    own = root / name / FILE
    if url is None and not own.is_file():
        raise UserError(f"{option} {name}: no study {own}; give the name of a study in {root}")
    url = url or f"{SQLITE}{own}"
    file = file_of(url)
    if file is not None and not file.is_file():
        raise UserError(f"{option} {name}: no file {file}; give the --storage that the study was made with")
    with storage_errors(url), storage_of(url, make=False) as storage:
        try:
            study = optuna.load_study(storage=storage, study_name=name)
        except KeyError as error:
            raise UserError(
                f"{option} {name}: no study of this name in {shown(url)}; give the name of one there"
            ) from error
        yield study


def complete_trials(settings: SearchSettings, name: str, shared: Mapping[str, Any]) -> list[FrozenTrial]:
    """The complete trials of the study called `name`, beside that of the settings or in the same storage.

    Raises UserError where there is none, or where it differs in what must be `shared`.
    """
    with stored_study(settings.root, name, settings.storage, "--warm-start") as study:
        before = study.user_attrs.get(SETTINGS, {})
        if changes := differing(before, shared):
            raise UserError(f"--warm-start {name}: its plans are of other settings ({changes}); give another, or none")
        return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def best_first(
    trials: Sequence[FrozenTrial], besides: Collection[str], among: Callable[[FrozenTrial], bool] = lambda _trial: True
) -> list[FrozenTrial]:
    """Complete trials of a study, `among` those of which that is true, by settled loss.

    Of trials whose parameters differ in `besides` alone the best one.

    What a divergence after healing comes to is learnt from all of them, as rungs and samplers do.
    """
    found: dict[str, FrozenTrial] = {}
    by_loss = (pair for pair in zip(settled(trials), trials, strict=True) if among(pair[1]))
    for _, trial in sorted(by_loss, key=lambda pair: (pair[0].values[0], pair[0].number)):
        plan = {name: value for name, value in trial.params.items() if name not in besides}
        found.setdefault(json.dumps(plan, sort_keys=True), trial)
    return list(found.values())


def _refuse_difference(name: str, before: dict[str, Any], now: dict[str, Any]) -> None:
    if changes := differing(before, now):
        raise UserError(
            f"study {name!r} was made with other settings ({changes}); take its settings or another --study"
        )
