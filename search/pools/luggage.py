"""What workers on other nodes need of the driver's files: model, data, and what was measured of the source.

A node that has a folder of the same path and content uses that. Another one unpacks the files, once for all its
workers and for later studies, from chunks that the driver's node reads when the first of them is asked for.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from space.errors import UserError
from space.fingerprints import fingerprint

CHUNK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Luggage:
    """Files of a driver's `folder`: bytes by name below it, and the `fingerprint` of what they hold."""

    folder: Path
    files: Mapping[str, int]
    fingerprint: str

    @property
    def chunks(self) -> list[tuple[str, int, int]]:
        """All bytes in order: the name of a file, where in it, and how many."""
        return [
            (name, start, min(CHUNK_BYTES, size - start))
            for name, size in self.files.items()
            for start in range(0, size, CHUNK_BYTES)
        ]

    def chunk(self, place: int) -> bytes:
        """Where the folder is. What was changed since is read as it is now."""
        name, start, size = self.chunks[place]
        with (self.folder / name).open("rb") as file:
            file.seek(start)
            return file.read(size)

    def is_in(self, folder: Path) -> bool:
        """Whether a folder has the same files."""
        try:
            sizes = {name: (folder / name).stat().st_size for name in self.files}
            return sizes == self.files and fingerprint(folder, self.files) == self.fingerprint
        except OSError:
            return False


def packed(folder: Path, patterns: Sequence[str]) -> Luggage:
    """The files of a folder that match any of some patterns."""
    folder = folder.resolve()
    found = sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
    files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in found}
    return Luggage(folder, files, fingerprint(folder, files))


def unpacked(luggage: Luggage, cache: Path, fetch: Callable[[int], bytes]) -> Path:
    """A folder with the files: the driver's, where it is there with the same content, else one below `cache`.

    `fetch` gives a chunk. What is in the cache is used as it is, if it is whole. Raises UserError where a name leads
    out of the folder, and where files are not what was packed; OSError where they cannot be written.
    """
    for name in luggage.files:
        _check_inside(name)
    if luggage.is_in(luggage.folder):
        return luggage.folder
    folder = cache / luggage.fingerprint
    with _one_at_a_time(cache / f".{luggage.fingerprint}.lock"):
        if not luggage.is_in(folder):
            _unpack(luggage, folder, fetch)
    return folder


def node_cache() -> Path:
    """This user's, in the folder of the node for what is temporary. Raises UserError where it is another's."""
    folder = Path(tempfile.gettempdir()) / f"tightfit-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise UserError(f"{folder}: belongs to another user; remove it, or set TMPDIR on this node")
    return folder


def _unpack(luggage: Luggage, folder: Path, fetch: Callable[[int], bytes]) -> None:
    temporary, old = (folder.with_name(f".{folder.name}.{kind}") for kind in ("part", "old"))
    for leftover in (temporary, old):
        shutil.rmtree(leftover, ignore_errors=True)
    for name in luggage.files:
        (temporary / name).parent.mkdir(parents=True, exist_ok=True)
        (temporary / name).touch()
    for place, (name, _, _) in enumerate(luggage.chunks):
        with (temporary / name).open("ab") as file:
            file.write(fetch(place))
    if not luggage.is_in(temporary):
        shutil.rmtree(temporary)
        raise UserError(f"{luggage.folder}: changed since the search began; leave it as it is, or begin another study")
    with suppress(FileNotFoundError):
        folder.rename(old)
    temporary.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _check_inside(name: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or not path.parts or ".." in path.parts or "\0" in name:
        raise UserError(f"file {name!r} is outside of its folder; nothing is unpacked")


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Waits for the other processes of a node; the lock falls with the process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class _Reader:
    """On the driver's node: what is read once, for all nodes, is in Ray's object store."""

    def __init__(self, carried: Sequence[Luggage]) -> None:
        self._carried = carried
        self._read: dict[tuple[int, int], Any] = {}

    def chunk(self, which: int, place: int) -> list[Any]:
        """A reference in a list, which Ray does not follow by itself."""
        import ray  # noqa: PLC0415

        if (which, place) not in self._read:
            self._read[which, place] = ray.put(self._carried[which].chunk(place))
        return [self._read[which, place]]


@dataclass(frozen=True)
class Carrier:
    """Luggage for the nodes of a Ray cluster, and who reads it on the driver's."""

    carried: tuple[Luggage, ...]
    reader: Any

    def folders(self) -> list[Path]:
        """Of a node, in the order of the luggage."""
        return [unpacked(luggage, node_cache(), self._fetch(which)) for which, luggage in enumerate(self.carried)]

    def _fetch(self, which: int) -> Callable[[int], bytes]:
        import ray  # noqa: PLC0415

        def fetch(place: int) -> bytes:
            found: bytes = ray.get(ray.get(self.reader.chunk.remote(which, place))[0])
            return found

        return fetch


def carrier(carried: Sequence[Luggage]) -> Carrier:
    """One whose reader stays on the driver's node, as long as the driver keeps it; within a connection to Ray."""
    import ray  # noqa: PLC0415
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: PLC0415

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    reader = ray.remote(_Reader).options(num_cpus=0, scheduling_strategy=here).remote(tuple(carried))
    return Carrier(tuple(carried), reader)
