"""Coded rates: one step for a matrix, unclipped symbols with error feedback, an entropy coder behind them.

Each column's step is the matrix's divided by how much the column's errors weigh once later columns have made up for
what they can: that spreads the error evenly over the directions of the inputs, as the rate-distortion bound asks
(WaterSIC, which proves a distance of 0.25 bit from it). What is rounded is what the weights are worth at the price of
their bits (`compress.pricing`). Rows are rescaled afterwards. The coder is `constriction`'s ANS with tables of
frequencies (`compress.frequencies`), one for columns of about the same spread.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import pairwise

import constriction
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtr
from torch import Tensor

from compress.frequencies import Table, merged, stream_bytes, table_counted, table_of
from compress.gptq import Hessian, round_with_feedback
from compress.pricing import CLOSEST_MODEL, Priced, Pricing, Wanted, priced
from models.devices import HOST
from models.modeling_tightfit import COLUMN_GRID, HEAD, TABLE_HEAD, coded_values, table_model

# Row scales have steps of a 32nd of an octave, or coarser where the finer ones take too many bytes.
ROW_GRIDS = (32, 16, 8, 4)
_LARGEST_EXPONENT = 40
LARGEST_SYMBOL = 2**14
# Steps are searched until the bytes are within this share below what they may be.
TOLERANCE = 1e-3
_MOST_PASSES = 12
# Entries whose places are in memory at a time, 8 bytes each.
_COUNTED_AT_ONCE = 2**24
# In logarithms of steps.
_LEAST_MOVE = 0.01


@dataclass(frozen=True)
class CodedMatrix:
    """Symbols (rows, columns) with exponents of rows and columns; `transposed` says that its columns are tokens."""

    symbols: Tensor
    step: float
    of_rows: Tensor
    of_columns: Tensor
    grid: int
    transposed: bool

    def values(self) -> Tensor:
        """The matrix in float32, as it is read back."""
        found = coded_values(self.symbols, self.step, self.of_rows, self.of_columns, self.grid)
        return found.T.contiguous() if self.transposed else found

    def to(self, device: torch.device) -> CodedMatrix:
        """On a device; where it is there already itself, with its size where that was counted."""
        if self.symbols.device == device:
            return self
        symbols, of_rows, of_columns = (x.to(device) for x in (self.symbols, self.of_rows, self.of_columns))
        found = replace(self, symbols=symbols, of_rows=of_rows, of_columns=of_columns)
        if "size_bytes" in self.__dict__:
            found.__dict__["size_bytes"] = self.size_bytes
        return found

    @cached_property
    def size_bytes(self) -> int:
        """An upper bound of the stream's bytes, a few above what it takes."""
        return stream_bytes(tables_of(self))

    def rescaled(self, factors: Tensor, most_bytes: int) -> CodedMatrix:
        """With its rows, or its tokens' rows where it is transposed, scaled as finely as `most_bytes` allow."""
        for grid in () if self.transposed else ROW_GRIDS:
            exponents = grid * (self.of_rows / self.grid + torch.log2(factors.double().clamp(0.1, 10)))
            found = replace(self, of_rows=exponents.round().clamp(-127, 127).to(torch.int32), grid=grid)
            if found.size_bytes <= most_bytes:
                return found
        return self


def code_matrix(
    weight: Tensor,
    hessian: Hessian,
    most_bytes: int,
    tolerance: float = TOLERANCE,
    pricing: Pricing = CLOSEST_MODEL,
) -> CodedMatrix:
    """The matrix (rows, columns) coded with the finest step whose bytes are at most `most_bytes`, or nearly.

    It is in host memory. Of what it may take at most a share `tolerance` stays unused, where the matrix is not too
    small to be coded so closely. Where inputs are one-hot (a lookup table, rows are tokens) `hessian` is over the rows:
    the matrix is transposed. Bytes must be enough for a head and tables of two symbols,
    `space.size.CODED_FRAME_BYTES`.
    """
    at_rate = priced(hessian, 8 * most_bytes / max(1, weight.numel()), pricing)
    target = _Target(weight, at_rate, even=False)
    found = _search(target, most_bytes, tolerance)
    if found is None or found.size_bytes < (1 - tolerance) * most_bytes:
        # exponents are too much for a small matrix, or the entropy of few values jumps from step to step
        even = _search(replace(target, even=True), most_bytes, tolerance)
        found = max(filter(None, (found, even)), key=lambda one: one.size_bytes, default=None)
    found = found or replace(target, even=True).with_step(4.0 * float(weight.abs().max()) + 1e-30)
    return found.to(HOST)


@dataclass(frozen=True)
class _Target:
    """A matrix (rows, columns) to be coded; `even` says that all of it has one step."""

    weight: Tensor
    hessian: Priced
    even: bool

    @property
    def lookup(self) -> bool:
        return self.hessian.lookup

    @cached_property
    def source(self) -> Tensor:
        return (self.weight.T if self.lookup else self.weight).float()

    @cached_property
    def wanted(self) -> Wanted:
        """What rounding shall come near to."""
        return self.hessian.wanted(self.source)

    @cached_property
    def of_columns(self) -> Tensor:
        exponents = column_exponents(self.hessian)
        return torch.zeros_like(exponents) if self.even else exponents

    @cached_property
    def relative(self) -> Tensor:
        """The columns' steps over the matrix's."""
        return relative_steps(self.of_columns)

    def with_step(self, step: float) -> CodedMatrix:
        """The matrix at one step, rows rescaled, where it was rounded."""
        rounded = round_rows(self.wanted, self.hessian, step * self.relative)
        step, of_rows = rounded.rescaled(step, self.hessian.upright, uneven=not (self.lookup or self.even))
        return CodedMatrix(rounded.symbols, step, of_rows, self.of_columns, ROW_GRIDS[0], self.lookup)


def column_exponents(hessian: Priced) -> Tensor:
    """Exponents of the columns' steps: the less an error there weighs, the larger."""
    weights = hessian.spreads.log2().double()
    exponents = (COLUMN_GRID * (weights - weights.mean())).round().clamp(-_LARGEST_EXPONENT, _LARGEST_EXPONENT)
    return exponents.to(torch.int32)


def relative_steps(of_columns: Tensor) -> Tensor:
    """The columns' steps over the matrix's (columns,), given their exponents."""
    return torch.exp2(of_columns.double() / COLUMN_GRID).float()


@dataclass(frozen=True)
class RoundedRows:
    """Symbols (rows, columns) of some rows, and for each what its scale depends on: w H w, w H v and v H v (rows,).

    v are the rounded values of the weights w, H is the Hessian.
    """

    symbols: Tensor
    source: Tensor
    along: Tensor
    power: Tensor

    def rescaled(self, step: float, upright: float, *, uneven: bool) -> tuple[float, Tensor]:
        """The step at which all rows are as `Pricing.upright` wants them, and exponents of what single rows want."""
        common = float(_scales(self.source.sum(), self.along.sum(), self.power.sum(), upright).clamp(0.5, 2.0))
        scales = (_scales(self.source, self.along, self.power, upright) / common).clamp(0.5, 2.0)
        exponents = (ROW_GRIDS[0] * scales.log2()).round() if uneven else torch.zeros_like(scales)
        # the step is stored in 32 bits
        return float(np.float32(step * common)), exponents.to(torch.int32)


def _scales(source: Tensor, along: Tensor, power: Tensor, upright: float) -> Tensor:
    """Between the scales of least error and those with which the product with the source is the source's own."""
    least, whole = along / power.clamp_min(1e-300), source / along.clamp_min(1e-300)
    # of rows whose inputs are silent the products are rounding's
    told = (source > 0) & (along > 0) & (power > 0)
    return torch.where(told, least.clamp_min(0) ** (1 - upright) * whole.clamp_min(0) ** upright, 1.0)


def round_rows(wanted: Wanted, hessian: Priced, steps: Tensor) -> RoundedRows:
    """Rows of weights as symbols at the columns' `steps` (columns,); with feedback where it helps."""
    if hessian.lookup:
        symbols = (wanted.values / steps).round_()
    else:
        in_order = steps[hessian.order]

        def rounded(block: Tensor, offset: int, column: int) -> Tensor:
            return (block[offset] / in_order[column]).round_().mul_(in_order[column])

        values = round_with_feedback(wanted.values[:, hessian.order], hessian.factor, rounded)
        symbols = torch.empty_like(values)
        symbols[:, hessian.order] = (values / in_order).round_()
    symbols.clamp_(-LARGEST_SYMBOL, LARGEST_SYMBOL)
    values = symbols * steps
    along, power = (wanted.behind * values).sum(1).double(), (hessian.times(values) * values).sum(1).double()
    return RoundedRows(symbols.to(torch.int16), wanted.power, along, power)


def _search(target: _Target, most_bytes: int, tolerance: float) -> CodedMatrix | None:
    """The finest step seen that fits, at best within the tolerance; None where none was seen to fit.

    The next step is the one at which columns of Gaussian entries would have the entropy that is missing.
    """
    entries = max(1, target.source.numel())
    bits = 8 * most_bytes / entries
    aim = (1 - tolerance / 2) * bits
    powers = (target.wanted.values / target.relative).square().mean(0)
    spreads = powers.sqrt().clamp_min(1e-30).log2().double().cpu().numpy()
    surplus, best = float(np.interp(bits, _USUAL_BITS, _USUAL_SURPLUS)), None
    # steps known to be too fine and to be coarse enough: logarithm, bits
    fine, coarse = (-math.inf, 0.0), (math.inf, 0.0)
    for _ in range(_MOST_PASSES):
        if math.isfinite(fine[0] + coarse[0]):
            share = (fine[1] - aim) / (fine[1] - coarse[1])
            log_step = fine[0] + min(0.95, max(0.05, share)) * (coarse[0] - fine[0])
        else:
            log_step = _gaussian_step(spreads, max(0.0, aim - surplus))
            log_step = min(coarse[0] - _LEAST_MOVE, max(log_step, fine[0] + _LEAST_MOVE))
        found = target.with_step(2.0**log_step)
        taken = 8 * found.size_bytes / entries
        surplus = taken - _gaussian_bits(spreads, log_step)
        if taken > bits:
            fine = (log_step, taken)
            continue
        coarse, best = (log_step, taken), found
        if taken >= (1 - tolerance) * bits or not target.weight.any():
            break
    return best


def _gaussian_bits(spreads: NDArray[np.float64], log_step: float) -> float:
    """Mean entropy of Gaussian columns with these logarithms of deviations, rounded to multiples of a step."""
    return float(np.interp(log_step - spreads, _LOG_RATIOS, _entropies()).mean())


def _gaussian_step(spreads: NDArray[np.float64], bits: float) -> float:
    """Inverse of `_gaussian_bits`."""
    low, high = float(spreads.min()) - 16, float(spreads.max()) + 3
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if _gaussian_bits(spreads, middle) > bits else (low, middle)
    return high


def _entropy(log_ratio: float) -> float:
    """Bits a Gaussian entry has once it is rounded to multiples of a step, 2^log_ratio deviations wide."""
    edges = (np.arange(-4000, 4001) + 0.5) * 2.0**log_ratio
    chances = np.diff(ndtr(edges))
    return float(-(chances[chances > 0] * np.log2(chances[chances > 0])).sum())


# What error feedback usually adds to the entropy of a matrix at some bits (linear layers of the bundled model): the
# search for a step begins there.
_USUAL_BITS = (0.7, 0.85, 1.0, 1.2, 1.4, 1.6, 2.0, 2.6, 3.0, 4.0)
_USUAL_SURPLUS = (0.36, 0.33, 0.29, 0.23, 0.18, 0.15, 0.11, 0.08, 0.07, 0.07)
# Finer steps add a bit for each halving.
_LOG_RATIOS = np.arange(-8, 3.01, 0.125)


@cache
def _entropies() -> NDArray[np.float64]:
    """Bits of a Gaussian entry at each of the ratios."""
    return np.array([_entropy(ratio) for ratio in _LOG_RATIOS])


def tables_of(matrix: CodedMatrix) -> list[Table]:
    """Tables of row exponents, column exponents and symbols; neighbouring classes of columns are one where it pays."""
    classes = classes_of(matrix)
    costs = [table.bits() for table in classes]
    joined = [merged(*pair) for pair in pairwise(classes)]
    joined_costs = [table.bits() for table in joined]
    while joined:
        gains = [costs[i] + costs[i + 1] - cost for i, cost in enumerate(joined_costs)]
        best = int(np.argmax(gains))
        if gains[best] <= 0:
            break
        classes[best : best + 2] = [joined[best]]
        costs[best : best + 2] = [joined_costs[best]]
        first = max(0, best - 1)
        joined[first : best + 2] = [merged(*pair) for pair in pairwise(classes[first : best + 2])]
        joined_costs[first : best + 2] = [
            table.bits() for table in joined[first : first + len(classes[first : best + 2]) - 1]
        ]
    return [table_of(matrix.of_rows.cpu().numpy()), table_of(matrix.of_columns.cpu().numpy()), *classes]


def classes_of(matrix: CodedMatrix) -> list[Table]:
    """A table for each exponent that columns have, counted where the symbols are."""
    exponents, of_class = torch.unique(matrix.of_columns, return_inverse=True)
    first = int(matrix.symbols.min())
    width = int(matrix.symbols.max()) - first + 1
    counts = torch.zeros(len(exponents) * width, dtype=torch.int64, device=of_class.device)
    for rows in torch.split(matrix.symbols, max(1, _COUNTED_AT_ONCE // max(1, len(of_class)))):
        places = rows.long().sub_(first).add_(of_class * width)
        counts += torch.bincount(places.reshape(-1), minlength=len(counts))
    of_exponents = counts.view(-1, width).cpu().numpy()
    return [
        table_counted(found, first, exponent) for found, exponent in zip(of_exponents, exponents.tolist(), strict=True)
    ]


def to_bytes(matrix: CodedMatrix) -> bytes:
    """The stream that `models.modeling_tightfit.decode_coded` reads."""
    tables = tables_of(matrix)
    columns, by_column = matrix.of_columns.numpy(), matrix.symbols.T.numpy().astype(np.int32)
    classes = tables[2:]
    before = [-(2**15), *(table.last for table in classes)]
    parts = (
        (table, by_column[(columns > after) & (columns <= table.last)])
        for table, after in reversed(list(zip(classes, before, strict=False)))
    )
    return write_stream(matrix, tables, parts)


def write_stream(
    matrix: CodedMatrix, tables: Sequence[Table], backwards: Iterable[tuple[Table, NDArray[np.int32]]]
) -> bytes:
    """A stream with these tables; `backwards` are symbols with their table, what is read last before all others."""
    of_rows, of_columns = tables[:2]
    coder = constriction.stream.stack.AnsCoder()
    for table, symbols in backwards:
        coder.encode_reverse(symbols.reshape(-1) - np.int32(table.first), table_model(table.codes))
    coder.encode_reverse(matrix.of_columns.numpy() - of_columns.first, table_model(of_columns.codes))
    coder.encode_reverse(matrix.of_rows.numpy() - of_rows.first, table_model(of_rows.codes))
    words = coder.get_compressed().astype("<u4").tobytes()
    head = struct.pack(HEAD, matrix.step, matrix.grid, matrix.transposed, len(tables), len(words) // 4)
    heads = [struct.pack(TABLE_HEAD, x.last, x.first, len(x.counts)) + x.codes.tobytes() for x in tables]
    return b"".join([head, *heads, words])
