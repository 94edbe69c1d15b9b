"""The lock of a study's one driver."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO

from search.storages import file_of
from space.errors import UserError

LOCK = "driver.lock"
# Who only looks whether a study is driven holds its lock for less than this many seconds.
_ATTEMPTS, _MOMENT = 3, 0.02


def this_driver() -> str:
    """How others are told of this process, which begins to drive now."""
    since = datetime.now().astimezone().isoformat(" ", "seconds")
    return f"process {os.getpid()} on {socket.gethostname()} since {since}"


def driven(what: str, driver: str) -> UserError:
    """That somebody else is at a study."""
    return UserError(f"{what} is driven by {driver}; wait for it or choose another --study")


@contextmanager
def driver_lock(folder: Path, storage: str | None) -> Iterator[None]:
    """Held by the one process that drives a study; falls with the process. Raises UserError naming the other one.

    The lock lies beside an SQLite file or a journal, whichever folder it is used from; for databases behind a network
    it lies in the study's folder, and `storages.storage_of` keeps out drivers of other folders.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, stored = folder / LOCK, file_of(storage) if storage else None
    if stored is not None and stored.parent.is_dir():
        own = stored.resolve().parent.name == folder.name
        path = stored.with_name(LOCK if own else f"{stored.name}.{folder.name}.lock")
    with path.open("a+") as file:
        _lock(file, folder)
        file.truncate(0)
        file.write(this_driver())
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
    raise driven(f"study in {folder}", _holder(file))
