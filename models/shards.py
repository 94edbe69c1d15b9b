"""The weights of a model folder, one tensor at a time: what is not asked for never comes into memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from models.layouts import INDEX, canonical_name
from models.loading import tensor_shapes
from models.modeling_tightfit import WEIGHTS
from space.errors import UserError, first_line


@dataclass(frozen=True)
class Stored:
    """Where a tensor stands: its file, its name there, its shape."""

    path: Path
    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Shards:
    """The tensors of a folder under one name each (`canonical_name`), whichever form they are saved in.

    A file is mapped only while a tensor of it is read: pages that stay mapped would count as memory of this process.
    """

    folder: Path
    found: Mapping[str, Stored]

    def check(self, wanted: Mapping[str, tuple[int, ...]]) -> None:
        """Raises UserError naming the first tensor that is not there or has another shape than a model's parameter."""
        for name, shape in wanted.items():
            stored = self._stored(name)
            if stored.shape != shape:
                raise UserError(
                    f"{stored.path}: {stored.name} has the shape {list(stored.shape)}, config.json asks for "
                    f"{list(shape)}; copy the model again"
                )

    def tensor(self, name: str) -> Tensor:
        """A tensor in float32. Raises UserError where it is missing, unreadable, or holds NaN or infinity."""
        stored = self._stored(name)
        with _opened(stored.path) as file:
            return _finite(file.get_tensor(stored.name), stored)

    def rows(self, name: str, ids: Tensor) -> Tensor:
        """The rows `ids`, ascending, of a matrix in float32; only those between the first and the last are read."""
        stored = self._stored(name)
        if not len(ids):
            return torch.empty(0, *stored.shape[1:])
        first, last = int(ids[0]), int(ids[-1])
        with _opened(stored.path) as file:
            return _finite(file.get_slice(stored.name)[first : last + 1][ids - first], stored)

    def _stored(self, name: str) -> Stored:
        one = canonical_name(name)
        if one not in self.found:
            raise UserError(f"{self.folder}: no shard has the tensor {name}; copy the model again, all shards included")
        return self.found[one]


def open_shards(folder: Path) -> Shards:
    """The shards of a folder, from their headers. Raises UserError where one is missing or damaged."""
    found = {}
    for path in _files(folder):
        try:
            shapes = tensor_shapes(path)
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path}: not readable ({first_line(error)}); copy the shard again") from error
        found.update({canonical_name(name): Stored(path, name, shape) for name, shape in shapes.items()})
    return Shards(folder, found)


def _files(folder: Path) -> Iterator[Path]:
    """The one file of weights, or those that the index names."""
    if (folder / WEIGHTS).is_file():
        yield folder / WEIGHTS
        return
    try:
        names = sorted(set(json.loads((folder / INDEX).read_bytes())["weight_map"].values()))
    except FileNotFoundError:
        raise UserError(f"--model {folder}: neither {WEIGHTS} nor {INDEX} there; give the folder of a model") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / INDEX}: not a readable index ({first_line(error)}); copy it again") from error
    for name in names:
        if not (folder / name).is_file():
            raise UserError(f"--model {folder}: the shard {name} is not there; copy it, or the model, again")
        yield folder / name


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: not readable ({first_line(error)}); copy the shard again") from error


def _finite(values: Tensor, stored: Stored) -> Tensor:
    """A copy in float32 that holds nothing of the mapped file."""
    if not bool(torch.isfinite(values).all()):
        raise UserError(f"{stored.path}: {stored.name} holds NaN or infinity; the model is damaged, copy it again")
    return values.to(torch.float32, copy=True)
