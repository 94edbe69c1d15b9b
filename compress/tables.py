"""Embedding and lm_head of a model that memory does not hold: rows are read, quantised and dropped in slices."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compress.coding import (
    ROW_GRIDS,
    CodedMatrix,
    RoundedRows,
    classes_of,
    code_matrix,
    column_exponents,
    relative_steps,
    round_rows,
    write_stream,
)
from compress.frequencies import Table, stream_bytes, table_of
from compress.gptq import Hessian
from compress.pricing import Priced, priced
from compress.quantize import PackedMatrix, quantize
from compress.units import Matrix, UnitWeights, to_bytes
from models.layouts import canonical_name
from models.shards import Shards
from space.rates import Coded
from space.size import Unit, linear_bytes

# Entries of a table that are in memory at once, in float32; a table of no more is coded as every other matrix is.
_SLICE_ENTRIES = 2**24
_MOST_PASSES = 10


@dataclass(frozen=True)
class TableRows:
    """A table's rows that stay, read slice by slice."""

    shards: Shards
    name: str
    kept: Tensor

    @property
    def columns(self) -> int:
        return self.shards.found[canonical_name(self.name)].shape[1]

    @property
    def entries(self) -> int:
        return len(self.kept) * self.columns

    def of(self, places: Tensor) -> Tensor:
        return self.shards.rows(self.name, self.kept[places])

    def slices(self) -> Iterator[tuple[slice, Tensor]]:
        """Where each slice stands among the rows that stay, and its weights in float32."""
        at_once = max(1, _SLICE_ENTRIES // self.columns)
        for start in range(0, len(self.kept), at_once):
            part = slice(start, min(len(self.kept), start + at_once))
            yield part, self.shards.rows(self.name, self.kept[part])


def encode_table(unit: Unit, table: TableRows, hessian: Hessian, tolerance: float) -> tuple[Matrix, bytes]:
    """A table as stored, and its unit's bytes."""
    rate = unit.rate
    hessian.findings(unit.name)
    stored: Matrix
    if isinstance(rate, Coded):
        most_bytes = linear_bytes(unit.linears[0], rate)
        if table.entries > _SLICE_ENTRIES:
            return _code_slices(table, hessian, most_bytes, tolerance)
        stored = code_matrix(table.of(torch.arange(len(table.kept))), hessian, most_bytes, tolerance)
    elif rate.bits == 16:
        stored = torch.cat([weights.bfloat16() for _, weights in table.slices()])
    else:
        parts = [quantize(weights, rate, hessian) for _, weights in table.slices()]
        codes, scales = torch.cat([x.codes for x in parts]), torch.cat([x.scales for x in parts])
        stored = PackedMatrix(codes, scales, rate)
    return stored, to_bytes(UnitWeights(unit, (stored,), ()))


def looked_up(stored: Matrix, ids: Tensor) -> Tensor:
    """Rows of an embedding in float32, as they are read back."""
    if isinstance(stored, Tensor):
        return stored[ids].float()
    if isinstance(stored, PackedMatrix):
        return PackedMatrix(stored.codes[ids], stored.scales[ids], stored.rate).values()
    return replace(stored, symbols=stored.symbols[:, ids], of_columns=stored.of_columns[ids]).values()


def _code_slices(table: TableRows, hessian: Hessian, most_bytes: int, tolerance: float) -> tuple[CodedMatrix, bytes]:
    """`compress.coding.code_matrix` of a table that is read in slices, and its stream.

    The step begins with that of a sample of the rows; an octave more is about a bit an entry less.
    """
    sample = torch.arange(0, len(table.kept), -(-8 * table.entries // _SLICE_ENTRIES))
    share = hessian.of(sample) if hessian.moments.dim() == 1 else hessian
    log_step = math.log2(
        code_matrix(table.of(sample), share, most_bytes * len(sample) // len(table.kept), tolerance).step
    )
    bits, best = 8 * most_bytes / table.entries, None
    at_rate = priced(hessian, bits)
    for _ in range(_MOST_PASSES):
        found = _with_step(table, at_rate, 2.0**log_step)
        tables = unmerged_tables(found)
        taken = 8 * stream_bytes(tables) / table.entries
        if taken <= bits:
            best = found, tables
            if taken >= (1 - tolerance) * bits:
                break
        log_step += taken - (1 - tolerance / 2) * bits
    assert best is not None, f"{table.name}: no step found for {bits} bits"
    return best[0], sliced_stream(*best)


def _with_step(table: TableRows, hessian: Priced, step: float) -> CodedMatrix:
    """The table at one step; tokens are rows of the table and, where they are looked up, columns of the matrix."""
    lookup, of_columns = hessian.lookup, column_exponents(hessian)
    steps = step * relative_steps(of_columns)
    parts = [
        _rounded(weights.T, hessian.of(torch.arange(part.start, part.stop)), steps[part])
        if lookup
        else _rounded(weights, hessian, steps)
        for part, weights in table.slices()
    ]
    symbols = torch.cat([part.symbols for part in parts], dim=1 if lookup else 0)
    # where tokens are columns each slice has a share of every row
    source, along, power = (
        torch.stack(shares).sum(0) if lookup else torch.cat(shares)
        for shares in zip(*((part.source, part.along, part.power) for part in parts), strict=True)
    )
    step, of_rows = RoundedRows(symbols, source, along, power).rescaled(step, hessian.upright, uneven=not lookup)
    return CodedMatrix(symbols, step, of_rows, of_columns, ROW_GRIDS[0], lookup)


def _rounded(weights: Tensor, hessian: Priced, steps: Tensor) -> RoundedRows:
    return round_rows(hessian.wanted(weights), hessian, steps)


def unmerged_tables(matrix: CodedMatrix) -> list[Table]:
    """As `compress.coding.tables_of`, without joining neighbours: beside so many symbols frequencies are nothing."""
    return [table_of(matrix.of_rows.numpy()), table_of(matrix.of_columns.numpy()), *classes_of(matrix)]


def _columns(matrix: CodedMatrix, exponent: int, *, backwards: bool = False) -> Iterator[NDArray[np.int32]]:
    """Symbols of the columns with an exponent, some columns (columns, rows) at once."""
    chosen = np.flatnonzero(matrix.of_columns.numpy() == exponent)
    at_once = max(1, _SLICE_ENTRIES // matrix.symbols.shape[0])
    starts = range(0, len(chosen), at_once)
    for start in reversed(starts) if backwards else starts:
        yield matrix.symbols.numpy().T[chosen[start : start + at_once]].astype(np.int32)


def sliced_stream(matrix: CodedMatrix, tables: Sequence[Table]) -> bytes:
    """As `compress.coding.to_bytes`, with symbols in 32 bits for some columns at a time."""
    parts = (
        (table, symbols) for table in reversed(tables[2:]) for symbols in _columns(matrix, table.last, backwards=True)
    )
    return write_stream(matrix, tables, parts)
