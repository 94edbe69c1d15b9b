"""The Optuna study: storage, the settings its trials share, the lock of its one driver."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import event
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from search.settings import SearchSettings, differing
from space.errors import UserError, first_line

# Two objectives, both minimised.
OBJECTIVES = ("100 - chrF after healing", "bytes")
# Attributes of a study: what its trials share, and how many trials it was last asked for.
SETTINGS, ASKED = "settings", "trials"
_SQLITE = "sqlite:///"
FILE, LOCK = "study.db", "driver.lock"
# What SQLite says of a file that is damaged.
_DAMAGED = ("malformed", "not a database")
# Who only looks whether a study is driven holds its lock for less than this many seconds.
_ATTEMPTS, _MOMENT = 3, 0.02


@contextmanager
def open_study(settings: SearchSettings, shared: dict[str, Any]) -> Iterator[optuna.Study]:
    """The study of this name, made or taken up. Raises UserError where settings differ or the storage fails."""
    url = settings.storage or f"{_SQLITE}{settings.folder / FILE}"
    with _storage_errors(url), _storage(url) as storage:
        study = optuna.create_study(
            storage=storage,
            study_name=settings.study,
            directions=["minimize", "minimize"],
            load_if_exists=True,
        )
        before = study.user_attrs.get(SETTINGS)
        if before is None and (study.get_trials(deepcopy=False) or len(study.directions) != len(OBJECTIVES)):
            raise UserError(f"study {settings.study!r} in {url} was not made by tightfit; choose another --study")
        if before is None:
            study.set_metric_names(list(OBJECTIVES))
            study.set_user_attr(SETTINGS, shared)
        else:
            _refuse_difference(settings.study, before, shared)
        yield study


@contextmanager
def stored_study(root: Path, name: str, url: str | None, option: str) -> Iterator[optuna.Study]:
    """The study called `name` in the folder `root`, or in the storage of an `url`; nothing is made.

    Raises UserError where there is none, which names the `option` that asked for it, or where the storage fails.
    """
    file = root / name / FILE
    if url is None and not file.is_file():
        raise UserError(f"{option} {name}: no study {file}; give the name of a study in {root}")
    if url is not None and url.startswith(_SQLITE):
        file = Path(url.removeprefix(_SQLITE).partition("?")[0])
        if not file.is_file():
            raise UserError(f"{option} {name}: no file {file}; give the --storage that the study was made with")
    url = url or f"{_SQLITE}{file}"
    with _storage_errors(url), _storage(url, make=False) as storage:
        try:
            study = optuna.load_study(storage=storage, study_name=name)
        except KeyError as error:
            raise UserError(f"{option} {name}: no study of this name in {url}; give the name of one there") from error
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


def best_first(trials: Iterable[FrozenTrial], besides: Collection[str]) -> list[FrozenTrial]:
    """Complete trials by loss; of those whose parameters differ in `besides` alone the best one."""
    found: dict[str, FrozenTrial] = {}
    for trial in sorted(trials, key=lambda one: (one.values[0], one.number)):
        plan = {name: value for name, value in trial.params.items() if name not in besides}
        found.setdefault(json.dumps(plan, sort_keys=True), trial)
    return list(found.values())


@contextmanager
def _storage(url: str, *, make: bool = True) -> Iterator[RDBStorage]:
    """Where there is none yet, it is made only if that is asked for."""
    # A locked database is waited for, a moment only: a person is watching.
    arguments = {"connect_args": {"timeout": 5}} if url.startswith("sqlite") else {}
    try:
        storage = RDBStorage(_with_driver(url), engine_kwargs=arguments, skip_table_creation=not make)
    except (ArgumentError, NoSuchModuleError, ImportError, RuntimeError) as error:
        raise UserError(
            f"--storage {url}: {first_line(error)}; write for instance sqlite:///trials.db or postgresql://host/name"
        ) from error
    if url.startswith("sqlite"):
        event.listen(storage.engine, "connect", _log_ahead)
        storage.engine.dispose()  # connections that were made without it
    try:
        yield storage
    finally:
        # SQLite puts its log into the file once the last connection is closed
        storage.remove_session()
        storage.engine.dispose()


def _with_driver(url: str) -> str:
    """PostgreSQL through the driver that is among the pins, unless the URL names one."""
    plain = "postgresql://"
    return f"postgresql+pg8000://{url.removeprefix(plain)}" if url.startswith(plain) else url


def _log_ahead(connection: sqlite3.Connection, _record: object) -> None:
    """Lets SQLite append what is written to a log: it need not wait for the disk, and nobody who reads is waited for.

    Optuna commits every parameter of a trial by itself. A killed process loses nothing by it; a machine that loses its
    power may lose the last moments. Where a file system cannot have such a log, all is as it was.
    """
    try:
        (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
    except sqlite3.OperationalError:
        return  # what is locked or cannot be written is said by who asks for more
    if mode == "wal":
        connection.execute("PRAGMA synchronous=NORMAL")


def _refuse_difference(name: str, before: dict[str, Any], now: dict[str, Any]) -> None:
    if changes := differing(before, now):
        raise UserError(
            f"study {name!r} was made with other settings ({changes}); take its settings or another --study"
        )


@contextmanager
def _storage_errors(url: str) -> Iterator[None]:
    """Turns what a storage raises into one line for the user."""
    try:
        yield
    except (StorageInternalError, SQLAlchemyError) as error:
        reason = _reason(error)
        then = "finished trials are kept, run the same command when it is mended"
        if any(word in reason for word in _DAMAGED):
            then = (
                "put a copy in its place, save what can be read by `sqlite3 FILE .recover`, or choose another --study"
            )
        raise UserError(f"storage {url}: {reason}; {then}") from error


def _reason(error: BaseException) -> str:
    """The first line of what a database said; PostgreSQL's driver hands on the fields of its message."""
    while error.__cause__ is not None:
        error = error.__cause__
    fields = error.args[0] if error.args else None
    return str(fields["M"]) if isinstance(fields, dict) and "M" in fields else first_line(error)


@contextmanager
def driver_lock(folder: Path, storage: str | None) -> Iterator[None]:
    """Held by the one process that drives a study; falls with the process. Raises UserError naming the other one.

    The lock lies beside an SQLite file, whichever folder it is used from; for other storages it lies in the study's
    folder and keeps out drivers of this folder only.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    if storage is not None and storage.startswith(_SQLITE) and Path(storage.removeprefix(_SQLITE)).parent.is_dir():
        database = Path(storage.removeprefix(_SQLITE))
        path = database.with_name(f"{database.name}.{folder.name}.lock")
    with path.open("a+") as file:
        _lock(file, folder)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def driver_of(folder: Path) -> str | None:
    """Who drives the study in a folder, or None where nobody does, as far as the lock there tells."""
    if not (folder / LOCK).is_file():
        return None
    with (folder / LOCK).open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _holder(file)
        return None


def _holder(file: IO[str]) -> str:
    file.seek(0)
    return file.read() or "another process"


def _lock(file: IO[str], folder: Path) -> None:
    for attempt in range(_ATTEMPTS):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if attempt < _ATTEMPTS - 1:
                time.sleep(_MOMENT)
    raise UserError(f"study in {folder} is driven by {_holder(file)}; wait for it or choose another --study")
