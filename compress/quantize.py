"""Packed rates: a few bits an entry and a 16-bit scale a group, with error feedback, as GPTQ's runtimes read them.

An entry is ``(code - 2^(bits - 1)) * scale``. There is one level more on one side of zero than on the other, and no
zero point to store: the sign of the scale says which side it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from compress.gptq import Hessian, round_with_feedback
from models.modeling_tightfit import unpacked_values
from space.rates import Packed

# Shares of the scale that reaches the largest entry, tried before the least-squares step.
_SHRINKAGES = torch.linspace(0.35, 1.0, 12)
_SMALLEST_SCALE = 2.0**-24  # the smallest positive number of 16-bit floats


@dataclass(frozen=True)
class PackedMatrix:
    """`codes` (rows, columns) in uint8 and `scales` (rows, groups) in float16; the last group of a row may be short."""

    codes: Tensor
    scales: Tensor
    rate: Packed

    def values(self) -> Tensor:
        """The matrix (rows, columns) in float32, as it is read back."""
        return unpacked_values(self.codes, self.scales, self.rate.bits, self.rate.group)

    def to(self, device: torch.device) -> PackedMatrix:
        return PackedMatrix(self.codes.to(device), self.scales.to(device), self.rate)

    def rescaled(self, factors: Tensor) -> PackedMatrix:
        """With its rows scaled by `factors` (rows,)."""
        return PackedMatrix(self.codes, (self.scales.float() * factors[:, None]).half(), self.rate)


def quantize(weight: Tensor, rate: Packed, hessian: Hessian) -> PackedMatrix:
    """A matrix (rows, columns) at a rate under 16 bits; `hessian` is over the rows where inputs are one-hot.

    Each group's scale is chosen when its first column's turn has come: see `_scales`.
    """
    lookup = hessian.moments.dim() == 1
    rows, columns = weight.shape
    importance = torch.ones(columns, device=weight.device) if lookup else hessian.diagonal
    importance = importance.clamp_min(1e-8 * float(importance.max()) + 1e-30)
    scales = torch.empty(rows, -(-columns // rate.group), device=weight.device)
    middle = 1 << (rate.bits - 1)

    def rounded(block: Tensor, offset: int, column: int) -> Tensor:
        group, start = divmod(column, rate.group)
        if not start:
            values = block[offset : offset + rate.group].T
            scales[:, group] = _scales(values, importance[column : column + rate.group], middle)
        scale = scales[:, group]
        return (block[offset] / scale).round().clamp(-middle, middle - 1) * scale

    # nothing is fed back where no input goes with another
    factor = torch.ones(columns, device=weight.device) if lookup else hessian.factor
    found = round_with_feedback(weight.float(), factor, rounded)
    steps = scales.repeat_interleave(rate.group, dim=1)[:, :columns]
    codes = (found / steps).round_().add_(middle)
    return PackedMatrix(codes.to(torch.uint8).cpu(), scales.half().cpu(), rate)


def _scales(values: Tensor, importance: Tensor, middle: int) -> Tensor:
    """Scales (rows,), 16-bit floats, of one group (rows, columns) with the least weighted squared error.

    Shrinks the scale with which the largest entry is the one level without a counterpart, then refits it to the codes
    by least squares.
    """
    extreme = values.gather(1, values.abs().argmax(1, keepdim=True))[:, 0]
    full = -extreme / middle
    best_scale, best_error = full, torch.full_like(full, torch.inf)
    for shrinkage in _SHRINKAGES.tolist():
        scale = _representable(full * shrinkage)
        levels = (values / scale[:, None]).round_().clamp_(-middle, middle - 1)
        along, power = (importance * values * levels).sum(1), (importance * levels**2).sum(1)
        refit = _representable(torch.where(power > 0, along / power.clamp_min(1e-30), scale))
        error = (importance * (values - levels * refit[:, None]) ** 2).sum(1)
        better = error < best_error
        best_scale, best_error = torch.where(better, refit, best_scale), torch.where(better, error, best_error)
    return _representable(best_scale)


def _representable(scale: Tensor) -> Tensor:
    """The nearest 16-bit float that is not zero."""
    magnitude = scale.abs().clamp(_SMALLEST_SCALE, 60_000)
    return torch.where(scale < 0, -magnitude, magnitude).half().float()


def pack(codes: Tensor, bits: int) -> bytes:
    """Codes below 2^bits one after the other, lowest bit first, no gaps between rows; the last byte is zero-padded."""
    planes = np.unpackbits(codes.numpy().reshape(-1, 1), axis=1, bitorder="little", count=bits)
    return np.packbits(planes.reshape(-1), bitorder="little").tobytes()
