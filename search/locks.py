"""Keeping a second process out of a folder in which one is at work."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from space.errors import UserError


@contextmanager
def alone(folder: Path, option: str = "--out") -> Iterator[None]:
    """Makes the folder where it is missing; the lock falls with the process.

    Raises UserError where it is held, which names the `option` that says where the folder is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder}: another process is at work there; wait, or choose another {option}") from None
        yield
    finally:
        os.close(handle)
