"""Packed rates: symmetric uniform quantisation of groups with error-optimal scales, and tight bit packing.

An entry is ``(code - (2^bits - 1) / 2) * scale``: an even number of levels around zero and no zero point to store.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from space.plan import Packed

# Shares of the scale that reaches the largest entry, tried before the least-squares step.
_SHRINKAGES = torch.linspace(0.35, 1.0, 12)
_SMALLEST_SCALE = 2.0**-24  # the smallest positive number of 16-bit floats


@dataclass(frozen=True)
class Quantized:
    """`codes` (rows, columns) in uint8 and `scales` (rows, groups) in float16; the last group of a row may be short."""

    codes: Tensor
    scales: Tensor
    rate: Packed

    def dequantized(self) -> Tensor:
        """The matrix (rows, columns) in float32."""
        columns = self.codes.shape[1]
        steps = self.scales.float().repeat_interleave(self.rate.group, dim=1)[:, :columns]
        return (self.codes.float() - _middle(self.rate)) * steps


def _middle(rate: Packed) -> float:
    return ((1 << rate.bits) - 1) / 2


def quantize(weight: Tensor, rate: Packed, moments: Tensor | None = None) -> Quantized:
    """Quantises a matrix (rows, columns) at a rate under 16 bits.

    Each group's scale minimises the squared error, weighted by `moments` (columns,), the second moments of the inputs,
    where given: shrink the full range (error-optimal clipping), then refit the scale to the codes by least squares.
    """
    rows, columns = weight.shape
    groups = -(-columns // rate.group)
    padding = groups * rate.group - columns
    importance = torch.ones(columns) if moments is None else moments.clamp_min(1e-8 * float(moments.max()) + 1e-30)
    values = torch.nn.functional.pad(weight.float(), (0, padding)).view(rows, groups, rate.group)
    importance = torch.nn.functional.pad(importance, (0, padding)).view(1, groups, rate.group)

    full = (values.abs().amax(dim=2) / _middle(rate)).clamp_min(_SMALLEST_SCALE)
    best_scale, best_error = full, torch.full_like(full, torch.inf)
    for shrinkage in _SHRINKAGES:
        levels = _levels(values, full * shrinkage, rate)
        refit = ((importance * values * levels).sum(2) / (importance * levels**2).sum(2).clamp_min(1e-30)).abs()
        error = (importance * (values - levels * refit[..., None]) ** 2).sum(2)
        better = error < best_error
        best_scale, best_error = torch.where(better, refit, best_scale), torch.where(better, error, best_error)
    scales = best_scale.clamp_min(_SMALLEST_SCALE).half()
    codes = _levels(values, scales.float(), rate) + _middle(rate)
    return Quantized(codes.view(rows, -1)[:, :columns].to(torch.uint8).contiguous(), scales, rate)


def _levels(values: Tensor, scales: Tensor, rate: Packed) -> Tensor:
    """The nearest levels, multiples of the scale halfway between whole numbers."""
    middle = _middle(rate)
    return (values / scales[..., None] + middle).round_().clamp_(0, 2 * middle).sub_(middle)


def pack(codes: Tensor, bits: int) -> bytes:
    """Codes below 2^bits one after the other, lowest bit first, no gaps between rows; the last byte is zero-padded."""
    flat = codes.numpy().reshape(-1, 1)
    planes = np.unpackbits(flat, axis=1, bitorder="little", count=bits)
    return np.packbits(planes.reshape(-1), bitorder="little").tobytes()


def unpack(data: bytes, bits: int, rows: int, columns: int) -> Tensor:
    """Inverse of `pack`: codes (rows, columns) in uint8."""
    raw: NDArray[np.uint8] = np.frombuffer(data, dtype=np.uint8)
    planes = np.unpackbits(raw, bitorder="little", count=rows * columns * bits).reshape(-1, bits)
    codes = np.packbits(planes, axis=1, bitorder="little")
    return torch.from_numpy(codes.reshape(rows, columns))
