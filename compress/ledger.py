"""What a streamed compression has done, in a folder: encoded units, and the activations behind the last of them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from space.files import write_whole

DATA = "data.bin"
_PROGRESS = "progress.json"


@dataclass(frozen=True)
class Ledger:
    """What is done, in a folder: encoded units one after the other, and the activations behind the last of them.

    `shapes` are those of the activations, an utterance each, in the file that was written with unit `behind`. What
    progress.json does not name yet is not done: it is replaced when all else is on disk.
    """

    folder: Path
    key: str
    done: tuple[tuple[str, int], ...] = ()
    shapes: tuple[tuple[int, ...], ...] = ()
    behind: int = 0

    def states(self) -> Iterator[Tensor | None]:
        """The activations, utterance by utterance; None for each before there are any."""
        return read_states(self._states(self.behind), self.shapes) if self.shapes else repeat(None)

    def after(self, name: str, data: bytes, states: Iterable[Tensor] | None = None) -> Ledger:
        """With one more unit, and the activations behind it if they are others."""
        with (self.folder / DATA).open("r+b" if self.done else "wb") as file:
            file.seek(sum(size for _, size in self.done))
            file.truncate()
            file.write(data)
            flush(file)
        found = replace(self, done=(*self.done, (name, len(data))))
        if states is not None:
            found = replace(found, behind=len(found.done))
            found = replace(found, shapes=write_states(found._states(found.behind), states))
        fields = {"key": found.key, "done": found.done, "shapes": found.shapes, "behind": found.behind}
        write_whole(self.folder / _PROGRESS, json.dumps(fields))
        if found.behind != self.behind:
            self._states(self.behind).unlink(missing_ok=True)
        return found

    def _states(self, unit: int) -> Path:
        return self.folder / f"states-{unit}.bin"


def open_ledger(folder: Path, key: str) -> Ledger:
    """What an earlier run with the same `key` did; where there is none, or it had another key, nothing yet."""
    try:
        raw = json.loads((folder / _PROGRESS).read_bytes())
        done = tuple((str(name), int(size)) for name, size in raw["done"])
        found = Ledger(folder, str(raw["key"]), done, tuple(map(tuple, raw["shapes"])), int(raw["behind"]))
        if found.key == key and (folder / DATA).stat().st_size >= sum(size for _, size in done):
            return found
    except (OSError, ValueError, TypeError, KeyError):
        pass  # never begun, or cut off before the first unit
    for path in (folder / _PROGRESS, folder / DATA, *folder.glob("states-*")):
        path.unlink(missing_ok=True)
    return Ledger(folder, key)


def write_states(path: Path, states: Iterable[Tensor]) -> tuple[tuple[int, ...], ...]:
    """Writes activations, in float32, one after the other; returns their shapes."""
    shapes = []
    with path.open("wb") as file:
        for one in states:
            file.write(one.contiguous().numpy().tobytes())
            shapes.append(tuple(one.shape))
        flush(file)
    return tuple(shapes)


def read_states(path: Path, shapes: Iterable[tuple[int, ...]]) -> Iterator[Tensor]:
    """Activations of these shapes, in float32, one after the other."""
    with path.open("rb") as file:
        for shape in shapes:
            yield torch.from_numpy(np.fromfile(file, dtype=np.float32, count=math.prod(shape))).view(shape)


def flush(file: Any) -> None:
    """Sees to it that what was written is on disk."""
    file.flush()
    os.fsync(file.fileno())
