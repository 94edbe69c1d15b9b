"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_LATELY_SECONDS = 3600.0


@contextmanager
def whole_file(path: Path, *, shared: bool = False) -> Iterator[Path]:
    """Where to write what then appears at `path`, with the folders above it.

    It is flushed to the disk first, so that a power failure leaves it whole, too. A file that is `shared` is not
    flushed, since it can be made again; several processes may write it at once, and the last one's stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid() if shared else 'tmp'}")
    try:
        yield temporary
        if not shared:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Removes what killed processes left half written of shared files; what was written lately may be at work."""
    for path in folder.glob(".*"):
        with suppress(FileNotFoundError):  # another process sweeps
            if path.suffix[1:].isdecimal() and time.time() - path.stat().st_mtime > _LATELY_SECONDS:
                path.unlink()


def write_whole(path: Path, text: str, *, shared: bool = False) -> None:
    """Writes a text in UTF-8."""
    with whole_file(path, shared=shared) as temporary:
        temporary.write_text(text, encoding="utf-8")
