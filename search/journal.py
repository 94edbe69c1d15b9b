"""Optuna's journal file as a study's storage: a line for everything that happens, nothing is ever overwritten."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock

from space.errors import UserError, first_line

_JOURNAL, _SUFFIX = "journal://", ".log"


def journal_of(url: str) -> Path | None:
    """The file that an URL such as trials.log or journal://trials.log names; None of another storage."""
    if url.startswith(_JOURNAL):
        return Path(url.removeprefix(_JOURNAL))
    return Path(url) if url.endswith(_SUFFIX) and "://" not in url else None


def open_journal(path: Path) -> JournalStorage:
    """Made where there is none. Raises UserError for a file that is no journal."""
    try:
        return JournalStorage(JournalFileBackend(str(path), _Lock(path)))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"storage {path}: is no journal, or damaged ({first_line(error)}); remove the line that is, put a copy in "
            "its place, or choose another"
        ) from error


class _Lock(BaseJournalFileLock):
    """Of who appends to a journal; falls with the process, other than Optuna's own.

    Who has it finds whole lines: one that a kill or a full disk left half written was never read, and is cut off.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._handle = path, -1

    def acquire(self) -> bool:
        self._handle = os.open(self._path, os.O_RDWR)
        fcntl.flock(self._handle, fcntl.LOCK_EX)
        if (size := os.fstat(self._handle).st_size) and os.pread(self._handle, 1, size - 1) != b"\n":
            os.truncate(self._handle, self._path.read_bytes().rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        os.close(self._handle)
