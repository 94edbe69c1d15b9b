"""What a study is stored in: an SQLite file, a database behind a network, or Optuna's journal file."""

from __future__ import annotations

import hashlib
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from search.journal import journal_of, open_journal
from search.storing import DrivenStorage, PlanStorage
from space.errors import UserError, first_line

SQLITE = "sqlite:///"
# What SQLite says of a file that is damaged.
_DAMAGED = ("malformed", "not a database")
# A server that was there before is waited for so long, in looks so far apart.
_AWAY_SECONDS, _LOOK_SECONDS = 120.0, 0.5
# Others may make the tables of a new database at the same time: what they made is looked at again, so often at
# most and after so many seconds.
_MAKERS, _MAKING_SECONDS = 50, 0.02
# How a session of a database takes a lock that falls with it, by dialect.
_LOCKS = {
    "postgresql": "SELECT pg_try_advisory_lock({key})",
    "mysql": "SELECT GET_LOCK('tightfit {key}', 0)",
    "mariadb": "SELECT GET_LOCK('tightfit {key}', 0)",
}


class TakenError(Exception):
    """Another process drives this study from somewhere else."""


def shown(url: str) -> str:
    """A storage's URL as it may be printed: without a password."""
    return re.sub(r"(?i)(passw\w*=)[^&]*", r"\1***", re.sub(r"(://[^:/]*):.*@", r"\1:***@", url))


def file_of(url: str) -> Path | None:
    """The file that is a storage; None of a database behind a network."""
    if url.startswith(SQLITE):
        return Path(url.removeprefix(SQLITE).partition("?")[0])
    return journal_of(url)


@contextmanager
def storage_of(url: str, *, make: bool = True, driven: str | None = None) -> Iterator[BaseStorage]:
    """Where there is none yet, it is made only if that is asked for. Raises UserError for what is no storage.

    Whoever opens it for the study that is to be `driven` is the only one of a database behind a network to have done
    so, or TakenError is raised; a server that restarts is waited for, and the study taken again. Files have a lock of
    their own (`driving.driver_lock`).
    """
    if (journal := journal_of(url)) is not None:
        yield open_journal(journal)
        return
    # A locked database is waited for, a moment only: a person is watching.
    arguments: dict[str, Any] = (
        {"connect_args": {"timeout": 5}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    )
    try:
        storage = _opened(_with_driver(url), arguments, make)
    except (ArgumentError, NoSuchModuleError, ImportError, RuntimeError, ValueError) as error:
        # of what is no number, which may be a part of a password, nothing is repeated
        reason = "its port is no number" if isinstance(error, ValueError) else first_line(error)
        raise UserError(
            f"--storage {shown(url)}: {reason}; write for instance sqlite:///trials.db, "
            "postgresql://host/name or trials.log"
        ) from error
    if url.startswith("sqlite"):
        event.listen(storage.engine, "connect", _log_ahead)
    else:
        event.listen(storage.engine, "do_connect", _patiently)
    storage.engine.dispose()  # connections that were made without
    hold = None
    try:
        if driven is not None and storage.engine.dialect.name in _LOCKS:
            hold = _Hold(storage.engine, driven)
        yield storage if driven is None else DrivenStorage(storage)
    finally:
        # SQLite puts its log into the file once the last connection is closed
        storage.remove_session()
        storage.engine.dispose()
        if hold is not None:
            hold.close()


def _opened(url: str, arguments: dict[str, Any], make: bool) -> PlanStorage:
    """Optuna looks which tables there are and makes those that are missing: another may be there in between."""
    left = _MAKERS
    while True:
        try:
            return PlanStorage(url, engine_kwargs=arguments, skip_table_creation=not make)
        except DBAPIError as error:
            theirs = isinstance(error, IntegrityError) or "already exists" in str(error.orig)
            left -= 1
            if not (make and theirs and left):
                raise
            time.sleep(_MAKING_SECONDS)


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


def _patiently(dialect: Any, _record: object, arguments: Any, keywords: Any) -> Any:
    """Connects again: searches take hours, servers restart in seconds."""

    def connect() -> Any:
        try:
            return dialect.connect(*arguments, **keywords)
        except dialect.loaded_dbapi.Error:
            return None

    return _until(connect) or dialect.connect(*arguments, **keywords)


def _until(found: Callable[[], Any]) -> Any:
    """What is found in the end; None where time is up."""
    give_up = time.monotonic() + _AWAY_SECONDS
    while not (result := found()) and time.monotonic() < give_up:
        time.sleep(_LOOK_SECONDS)
    return result


class _Hold:
    """A study's lock in a database; a connection of its own has it, so that it falls with the process."""

    def __init__(self, engine: Engine, study: str) -> None:
        key = int.from_bytes(hashlib.sha256(f"{engine.url.database}/{study}".encode()).digest()[:7])
        self._statement = text(_LOCKS[engine.dialect.name].format(key=key))
        self._engine = create_engine(engine.url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        event.listen(self._engine, "do_connect", _patiently)
        self._connection = self._engine.connect()
        if not self._taken():
            self.close()
            raise TakenError
        event.listen(engine, "connect", self._hold_on)

    def close(self) -> None:
        self._connection.close()

    def _taken(self) -> bool:
        return bool(self._connection.execute(self._statement).scalar())

    def _hold_on(self, *_: object) -> None:
        """Takes the study again where the server lost the connection, which others were lost with, too."""
        try:
            self._connection.execute(text("SELECT 1"))
        except DBAPIError:
            self._connection.close()
            self._connection = self._engine.connect()
            # a server may take a while to see that the connection before is gone
            if not _until(self._taken):
                raise TakenError from None


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
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
        raise UserError(f"storage {shown(url)}: {reason}; {then}") from error


def _reason(error: BaseException) -> str:
    """The first line of what a database said; PostgreSQL's driver hands on the fields of its message."""
    while error.__cause__ is not None:
        error = error.__cause__
    fields = error.args[0] if error.args else None
    return str(fields["M"]) if isinstance(fields, dict) and "M" in fields else first_line(error)
