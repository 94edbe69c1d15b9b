"""What files hold, in a hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

# Files up to this size are hashed whole, larger ones in slices.
_WHOLE_HASH_BYTES = 256 * 2**20
_SLICES = 256


def fingerprint(folder: Path, names: Iterable[str]) -> str:
    """A hash of files of a folder: of all their bytes up to 256 MB a file, of evenly spread slices of larger ones.

    Raises OSError where one is not there.
    """
    digest = hashlib.sha256()
    for name in sorted(names):
        path = folder / name
        size = path.stat().st_size
        digest.update(f"{name} {size} ".encode())
        with path.open("rb") as file:
            if size <= _WHOLE_HASH_BYTES:
                digest.update(file.read())
                continue
            for part in range(_SLICES):
                file.seek(part * size // _SLICES)
                digest.update(file.read(2**16))
    return digest.hexdigest()[:16]
