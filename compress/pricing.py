"""Error feedback at a price: at low rates some of what a weight says is not worth its bits.

A code of few bits spends none on directions of the inputs whose power is below a level (reverse water-filling: Cover
and Thomas, Elements of Information Theory, section 10.3.3). Rounding with error feedback does not know that: it makes
up for errors there by larger entries elsewhere. So the size of entries gets a price: the values v of weights w with
the Hessian H shall make (w - v) (H + d) (w - v) + p v v least, d being the damping, which is to round
w (H + d) (H + d + p)^-1 with the Hessian H + d + p, and which is the Wiener filter before a predictive coder (Zamir,
Kochman and Erez 2008, Achieving the Gaussian rate-distortion function by prediction).

What is left out makes outputs smaller, in layer after layer alike, where rounding's noise averages out. So rows are
scaled to somewhere between the least squared error and outputs that have as much of the source's outputs as these.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from compress.gptq import Hessian, inverse_factor


@dataclass(frozen=True)
class Pricing:
    """Log2 of the price, as a share of the inputs' mean power, at no bits, and by how much each bit lowers it.

    `damping` is a share of the mean power too; `upright` is how far rows are scaled from the least squared error,
    at 0, to outputs whose product with the source's is as large as the source's with themselves, at 1.
    """

    exponent: float
    fall: float
    damping: float
    upright: float


# What brings the model closest to the source, and what has the least squared error of single matrices: both measured on
# the bundled model (docs/log.md). A price pays in the model where rates are low only.
CLOSEST_MODEL = Pricing(-0.5, 4.0, 0.01, 0.7)
LEAST_ERROR = Pricing(-1.75, 2.0, 1e-4, 0.0)
# Logarithms to base 2 of shares of the mean power. Prices are powers of two, so that neighbouring rates share a
# factorisation; none below the first one is paid, and from the second on weak columns are rounded first.
_LEAST_EXPONENT, _MUCH = -10, -6


@dataclass(frozen=True, eq=False)
class Priced:
    """A Hessian's moments, with what is added to their diagonal: a price of entries, and damping."""

    moments: Tensor
    price: float
    damping: float
    upright: float = 0.0
    weak_first: bool = False

    @property
    def lookup(self) -> bool:
        """Whether inputs are one-hot: moments (columns,), and no column can make up for another."""
        return self.moments.dim() == 1

    @cached_property
    def order(self) -> Tensor:
        """The columns in the order they are rounded in: strong ones first, or weak ones first.

        Where the price is high much of the weak ones is given up, and the strong ones then make up for it.
        """
        return self.moments.diagonal().argsort(descending=not self.weak_first, stable=True)

    @cached_property
    def factor(self) -> Tensor:
        """The upper Cholesky factor of the inverse (columns, columns), columns in their order."""
        return inverse_factor(self.moments, self.price + self.damping, self.order)

    @cached_property
    def spreads(self) -> Tensor:
        """The inverse of an output's standard deviation due to each column alone (columns,), in the matrix's order.

        Once the columns that are rounded later have made up for what they can.
        """
        if self.lookup:
            return (self.moments + self.damping).rsqrt()
        found = torch.empty_like(self.factor.diagonal())
        found[self.order] = self.factor.diagonal()
        return found

    def wanted(self, weight: Tensor) -> Wanted:
        """What rounding shall come near to in place of weights (rows, columns)."""
        behind = self.times(weight)
        if not self.price:
            return Wanted(weight, (behind * weight).sum(1).double(), behind)
        found, ordered = torch.empty_like(weight), weight[:, self.order]
        found[:, self.order] = ordered.addmm(ordered @ self.factor.T, self.factor, alpha=-self.price)
        return Wanted(found, (behind * weight).sum(1).double(), behind)

    def times(self, rows: Tensor) -> Tensor:
        """Rows (rows, columns) times the moments."""
        return rows * self.moments if self.lookup else rows @ self.moments

    def of(self, columns: Tensor) -> Priced:
        """One-hot inputs: what the tokens that stay have."""
        assert self.lookup
        return replace(self, moments=self.moments[columns])


@dataclass(frozen=True)
class Wanted:
    """What weights w (rows, columns) are worth at a price, w H w (rows,), and w H (rows, columns)."""

    values: Tensor
    power: Tensor
    behind: Tensor


# The last one of each Hessian: matrix after matrix of the same inputs has the same.
_LAST: WeakKeyDictionary[Hessian, tuple[tuple[Pricing, int], Priced]] = WeakKeyDictionary()


def priced(hessian: Hessian, bits: float, pricing: Pricing = CLOSEST_MODEL) -> Priced:
    """A Hessian at the price of a rate of `bits` an entry.

    Tokens of a lookup table have none: those that are rare in the calibrate role may be frequent elsewhere.
    """
    exponent, damping = round(pricing.exponent - pricing.fall * bits), pricing.damping * hessian.mean_power
    if hessian.moments.dim() == 1:
        return Priced(hessian.moments, 0.0, damping)
    exponent = max(_LEAST_EXPONENT - 1, exponent)
    last = _LAST.get(hessian)
    if last is None or last[0] != (pricing, exponent):
        price = 2.0**exponent * hessian.mean_power if exponent >= _LEAST_EXPONENT else 0.0
        found = Priced(hessian.moments, price, damping, pricing.upright, weak_first=exponent >= _MUCH)
        last = _LAST[hessian] = (pricing, exponent), found
    return last[1]
