"""Pieces of candidates: stored matrices that plan after plan asks for, kept in memory and in a folder.

A piece is made once for all plans, studies and workers that share its folder, whose name says what its pieces were
made from. Whole files appear at once, so several workers may use one folder; a killed one leaves nothing that is wrong.
Where pieces take more than they may, those go first that were not asked for the longest time.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from compress.coding import CodedMatrix
from compress.quantize import PackedMatrix
from compress.recent import Recent
from compress.tensors import save_tensors
from compress.units import Matrix
from space.files import whole_file
from space.rates import Packed

# Files are weighed again once this share of what they may take has been added.
_WEIGHED_AFTER = 1 / 16
# What is left once files had to go.
_LEFT = 0.9
_SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Piece:
    """Matrices in their stored form, and vectors in bf16: biases of the matrices, then norms."""

    matrices: tuple[Matrix, ...]
    vectors: tuple[Tensor, ...]

    @property
    def size_bytes(self) -> int:
        """Of its tensors in memory."""
        return sum(x.nbytes for x in (*self.vectors, *(x for matrix in self.matrices for x in _tensors(matrix))))


@dataclass
class Shelf:
    """Pieces by name, at most `most_bytes` of them in the folder, and `memory_bytes` in memory.

    Without a folder they are in memory alone. `made` counts the pieces that were on no shelf.
    """

    folder: Path | None = None
    most_bytes: int = 20 * 10**9
    memory_bytes: int = 2 * 10**9
    made: int = field(default=0, init=False)
    _held: Recent[str, Piece] = field(init=False, repr=False)
    _added_bytes: float = field(default=float("inf"), init=False, repr=False)

    def __post_init__(self) -> None:
        self._held = Recent(self.memory_bytes)

    def piece(self, name: str, make: Callable[[], Piece]) -> Piece:
        """The piece of this name, which is made where there is none."""
        found = self._held.get(name) or self._read(name)
        if found is None:
            found = make()
            self.made += 1
            self._write(name, found)
        if name not in self._held:
            self._held.put(name, found, found.size_bytes)
        return found

    def has(self, name: str) -> bool:
        """Whether a piece need not be made."""
        return name in self._held or (self.folder is not None and self._path(name).exists())

    def size_bytes(self) -> int:
        """Bytes of the files in the folder."""
        return sum(size for _, size, _ in self._files())

    def _path(self, name: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}{_SUFFIX}"

    def _read(self, name: str) -> Piece | None:
        if self.folder is None:
            return None
        path = self._path(name)
        try:
            with safe_open(path, framework="pt") as file:
                kept = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            if kept["sum"] != _sum(kept["piece"], tensors):
                raise ValueError("not as it was written")
            found = _unpacked(json.loads(kept["piece"]), tensors)
            os.utime(path)
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):
            # a damaged piece is made again
            path.unlink(missing_ok=True)
            return None
        return found

    def _write(self, name: str, piece: Piece) -> None:
        if self.folder is None:
            return
        tensors, about = _packed(piece)
        said = json.dumps(about)
        with whole_file(self._path(name), shared=True) as temporary:
            save_tensors(tensors, temporary, {"piece": said, "sum": _sum(said, tensors)})
        self._added_bytes += piece.size_bytes
        if self._added_bytes > _WEIGHED_AFTER * self.most_bytes:
            self._added_bytes = 0
            self._make_room()

    def _files(self) -> list[tuple[int, int, Path]]:
        """When each file was last asked for, its bytes, and where it is."""
        found = []
        for path in self.folder.glob(f"*{_SUFFIX}") if self.folder else ():
            with suppress(FileNotFoundError):  # another worker made room
                status = path.stat()
                found.append((status.st_mtime_ns, status.st_size, path))
        return found

    def _make_room(self) -> None:
        """Removes the files that were not asked for the longest time, where all of them take too much."""
        files = self._files()
        taken = sum(size for _, size, _ in files)
        if taken <= self.most_bytes:
            return
        for _, size, path in sorted(files):
            path.unlink(missing_ok=True)
            taken -= size
            if taken <= _LEFT * self.most_bytes:
                break


def _sum(said: str, tensors: Mapping[str, Tensor]) -> str:
    """A checksum of a file's contents: a wrong bit would be a wrong score."""
    found = zlib.crc32(said.encode())
    for name in sorted(tensors):
        found = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).cpu().numpy().data, found)
    return f"{found:08x}"


def _tensors(matrix: Matrix) -> tuple[Tensor, ...]:
    if isinstance(matrix, CodedMatrix):
        return matrix.symbols, matrix.of_rows, matrix.of_columns
    return (matrix.codes, matrix.scales) if isinstance(matrix, PackedMatrix) else (matrix,)


def _packed(piece: Piece) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A piece as named tensors, and what else there is to say about each matrix."""
    tensors = {f"vector.{i}": vector.contiguous() for i, vector in enumerate(piece.vectors)}
    about: list[dict[str, Any]] = []
    for i, matrix in enumerate(piece.matrices):
        if isinstance(matrix, CodedMatrix):
            small = bool((matrix.symbols.abs() < 2**7).all())
            tensors |= {
                f"{i}.symbols": matrix.symbols.to(torch.int8 if small else torch.int16).contiguous(),
                f"{i}.rows": matrix.of_rows.contiguous(),
                f"{i}.columns": matrix.of_columns.contiguous(),
            }
            about.append({"step": matrix.step, "grid": matrix.grid, "transposed": matrix.transposed})
        elif isinstance(matrix, PackedMatrix):
            tensors |= {f"{i}.codes": matrix.codes.contiguous(), f"{i}.scales": matrix.scales.contiguous()}
            about.append({"bits": matrix.rate.bits, "group": matrix.rate.group})
        else:
            tensors[f"{i}.plain"] = matrix.contiguous()
            about.append({})
    return tensors, {"matrices": about, "vectors": len(piece.vectors)}


def _unpacked(about: dict[str, Any], tensors: dict[str, Tensor]) -> Piece:
    """Inverse of `_packed`. Raises KeyError, TypeError or ValueError for what is no piece."""
    matrices: list[Matrix] = []
    for i, one in enumerate(about["matrices"]):
        if "step" in one:
            symbols, rows, columns = (tensors[f"{i}.{key}"] for key in ("symbols", "rows", "columns"))
            coded = CodedMatrix(symbols.to(torch.int16), one["step"], rows, columns, one["grid"], one["transposed"])
            matrices.append(coded)
        elif "bits" in one:
            rate = Packed(one["bits"], one["group"])
            matrices.append(PackedMatrix(tensors[f"{i}.codes"], tensors[f"{i}.scales"], rate))
        else:
            matrices.append(tensors[f"{i}.plain"])
    return Piece(tuple(matrices), tuple(tensors[f"vector.{i}"] for i in range(about["vectors"])))
