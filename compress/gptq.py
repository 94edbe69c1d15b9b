"""GPTQ: columns are rounded one after the other, and what rounding loses is made up for in the columns still to come.

Frantar et al. 2022 (arXiv 2210.17323), algorithm 1, in the Cholesky form. Rows do not see each other, so several
rates of one matrix are rows of one visit, and one factorisation serves them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from space.errors import UserError

# Added to the diagonal, as a share of its mean.
_DAMPING = 0.01
# A multiple of every group size, so that a group is up to date when its scale is chosen.
_BLOCK = 128
# Channels whose second moment is below this share of the mean never speak.
_DEAD = 1e-10
# Two channels with a correlation beyond this are one.
_DUPLICATE = 1 - 1e-6

# What a column (rows,) is rounded to, given up-to-date columns (columns, rows), where among them and in the matrix.
RoundColumn = Callable[[Tensor, int, int], Tensor]


@dataclass(frozen=True, eq=False)
class Hessian:
    """Second moments of a matrix's inputs: E[x x^T] (columns, columns), or E[x] (columns,) of inputs that are one-hot.

    Half the Hessian of the squared error of an output with respect to its row of weights. `mean` is E[x] (columns,),
    None where it was not measured.
    """

    moments: Tensor
    mean: Tensor | None = None

    @property
    def columns(self) -> int:
        return len(self.moments)

    @property
    def diagonal(self) -> Tensor:
        """E[x_j^2] (columns,)."""
        return self.moments.diagonal() if self.moments.dim() == 2 else self.moments

    @property
    def mean_power(self) -> float:
        """Mean of the diagonal, a little above zero."""
        return float(self.diagonal.double().mean()) + 1e-28

    def to(self, device: torch.device) -> Hessian:
        """On a device; where it is there already itself, with what was computed of it."""
        if self.moments.device == device:
            return self
        return Hessian(self.moments.to(device), None if self.mean is None else self.mean.to(device))

    def of(self, columns: Tensor) -> Hessian:
        """What the inputs that stay have."""
        columns = columns.to(self.moments.device)
        moments = self.moments[columns][:, columns] if self.moments.dim() == 2 else self.moments[columns]
        return Hessian(moments, None if self.mean is None else self.mean[columns])

    @cached_property
    def centred(self) -> Hessian:
        """Of the inputs less their mean: what counts where a bias makes up for an output's mean error."""
        if self.mean is None or self.moments.dim() == 1:
            return self
        return Hessian(self.moments - torch.outer(self.mean, self.mean), torch.zeros_like(self.mean))

    @cached_property
    def factor(self) -> Tensor:
        """The upper Cholesky factor of the damped inverse (columns, columns); of one-hot inputs its diagonal.

        The entry (j, j) is the standard deviation an output's error has from column j alone, inverted, once the later
        columns have made up for what they can.
        """
        damping = _DAMPING * self.mean_power
        if self.moments.dim() == 1:
            diagonal: Tensor = (self.moments + damping).rsqrt()
            return diagonal
        return inverse_factor(self.moments, damping)

    def damped(self) -> Tensor:
        """The moments of vectors in double precision, a hundredth of their mean power added (columns, columns)."""
        moments = self.moments.double()
        damped: Tensor = moments + _DAMPING * self.mean_power * torch.eye(
            self.columns, dtype=moments.dtype, device=moments.device
        )
        return damped

    def error(self, difference: Tensor) -> float:
        """Expected squared error of all outputs for a difference of weights (rows, columns)."""
        weighted = difference @ self.moments if self.moments.dim() == 2 else difference * self.moments
        return float((weighted * difference).sum())

    def findings(self, name: str) -> list[str]:
        """What is odd about the inputs of the matrix called `name`. Raises UserError where they hold NaN."""
        if not bool(torch.isfinite(self.moments).all()):
            raise UserError(f"{name}: its inputs over the calibrate role are not finite; check the model and the audio")
        diagonal = self.diagonal
        dead = diagonal <= _DEAD * diagonal.mean()
        found = [f"{name}: {int(dead.sum())} of {self.columns} input channels are never active"] if dead.any() else []
        if self.moments.dim() == 1:
            return found
        scale = diagonal.clamp_min(1e-30).rsqrt()
        correlation = (self.moments * scale[:, None] * scale).abs().triu(1)
        twins = int(((correlation > _DUPLICATE).any(0) & ~dead).sum())
        if twins:
            found.append(f"{name}: {twins} of {self.columns} input channels repeat another")
        return found


def moved(hessians: Iterable[Hessian], device: torch.device) -> tuple[Hessian, ...]:
    """Hessians on a device; those that are one object stay one."""
    hessians = tuple(hessians)
    there = {id(one): one.to(device) for one in dict.fromkeys(hessians)}
    return tuple(there[id(one)] for one in hessians)


def inverse_factor(moments: Tensor, damping: float, order: Tensor | None = None) -> Tensor:
    """The upper Cholesky factor of the damped inverse (columns, columns); where there is none of more damping.

    Columns stand in `order`, if one is given. Damping must be positive and moments finite. Few copies in doubles live
    at once.
    """
    assert damping > 0
    while True:
        ordered = moments if order is None else moments[order[:, None], order]
        damped = ordered.to(torch.float64, copy=True)
        del ordered
        damped.diagonal().add_(damping)
        lower, failed = torch.linalg.cholesky_ex(damped)
        del damped
        if not failed:
            inverse = torch.cholesky_inverse(lower)
            del lower
            upper, failed = torch.linalg.cholesky_ex(inverse, upper=True)
            del inverse
            if not failed:
                found: Tensor = upper.float()
                return found
        damping *= 10


def round_with_feedback(weight: Tensor, factor: Tensor, rounded: RoundColumn) -> Tensor:
    """GPTQ: what `rounded` makes of each column of `weight` (rows, columns), earlier columns' losses added to it.

    With the factor (columns,) of one-hot inputs no column can make up for another.
    """
    # columns in one piece of memory each
    left = weight.T.contiguous().clone()
    columns = len(left)
    for start in range(0, columns, _BLOCK):
        end = min(columns, start + _BLOCK)
        block, errors = left[start:end], torch.empty_like(left[start:end])
        for offset in range(end - start):
            values = rounded(block, offset, start + offset)
            if factor.dim() == 2:
                row = factor[start + offset, start + offset : end]
                torch.sub(block[offset], values, out=errors[offset]).div_(row[0])
                block[offset:].addr_(row, errors[offset], alpha=-1)
            block[offset] = values
        if factor.dim() == 2:
            left[end:].addmm_(factor[start:end, end:].T, errors, alpha=-1)
    return left.T.contiguous()
