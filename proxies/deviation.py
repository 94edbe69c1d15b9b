"""Proxies that run no model: how far a plan's weights are from the source's, weighed by inputs or by gradients.

Each matrix is compared with the source's by itself: that a matrix makes up for sublayers removed behind it counts as an
error of its own, and the sublayers as lost.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from compress.gptq import Hessian
from compress.pipeline import Bank
from compress.prune import blocks_of, kept_columns, kept_of, rows_of, tower_of
from compress.units import bias, matrix
from models.anatomy import Place, places
from models.devices import HOST, device_of
from models.inputs import Batch, target_logits
from models.loading import Source
from proxies.tryout import Tryout
from space.plan import Plan, uniform_plan
from space.rates import WHOLE

# Squared gradients by unit and number of the matrix.
Squares = Mapping[tuple[str, int], Tensor]


@dataclass(frozen=True)
class Difference:
    """What is lost of matrix `index` of a unit: `lost` (rows, columns), and which rows of the source's these are.

    Heads and channels that go are lost in the matrix that reads them, so rows that feed them are left out elsewhere;
    tokens that go are lost in the embedding, and left out of lm_head.
    """

    unit: str
    index: int
    rows: Tensor | None
    lost: Tensor
    source: Tensor
    hessian: Hessian

    def share(self) -> float:
        """The squared error of the outputs over their power."""
        # of lookup tables the Hessian is over the rows
        lost, source = (x.T if self.hessian.moments.dim() == 1 else x for x in (self.lost, self.source))
        hessian = self.hessian.to(self.lost.device)
        return hessian.error(lost) / max(hessian.error(source), 1e-30)


@dataclass(frozen=True)
class Deviations:
    """The source's matrices, which plans are compared with."""

    source: Source
    bank: Bank

    @cached_property
    def _whole(self) -> dict[str, Place]:
        whole = places(self.source.model, uniform_plan(self.source.layout, WHOLE))
        return {place.name: place for place in whole}

    @property
    def names(self) -> list[str]:
        """The units of the source."""
        return list(self._whole)

    def of(self, tryout: Tryout, names: Collection[str]) -> Iterator[Difference]:
        """Of every matrix of some units; of sublayers that are removed only of the last one, which loses everything."""
        there = {place.name: place for place in places(tryout.candidate.model, tryout.plan)}
        for name in names:
            whole = self._whole[name]
            if name not in there:
                last = matrix(whole.matrices[-1])
                yield Difference(name, len(whole.matrices) - 1, None, last, last, self.bank.hessians[name][-1])
            elif tower_of(name, self.source.layout):
                yield from self._sublayer(whole, there[name], tryout.plan)
            else:
                yield from self._table(whole, there[name], tryout.plan)

    def _sublayer(self, whole: Place, there: Place, plan: Plan) -> Iterator[Difference]:
        name = whole.name
        tower = tower_of(name, self.source.layout)
        assert tower is not None
        hessians = self.bank.hessians[name]
        columns = kept_columns(self.bank.orders[name], kept_of(name, plan), blocks_of(name, tower))
        columns = columns.to(matrix(whole.matrices[-1]).device)
        for index, rows in enumerate(rows_of(whole, tower, columns)):
            source = matrix(whole.matrices[index])[rows]
            yield Difference(name, index, rows, source - matrix(there.matrices[index]), source, hessians[index])
        source = matrix(whole.matrices[-1])
        lost = source.clone()
        lost[:, columns] -= matrix(there.matrices[-1])
        # the bias of a narrowed matrix is refit and takes the mean
        narrowed = len(columns) < source.shape[1] and bias(whole.matrices[-1]) is not None
        hessian = hessians[-1].centred if narrowed else hessians[-1]
        yield Difference(name, len(whole.matrices) - 1, None, lost, source, hessian)

    def _table(self, whole: Place, there: Place, plan: Plan) -> Iterator[Difference]:
        hessians = self.bank.hessians[whole.name]
        if whole.name in ("embedding", "lm_head") and plan.vocabulary < self.source.vocabulary.rows:
            source, stored = matrix(whole.matrices[0]), matrix(there.matrices[0])
            rows = torch.tensor(self.source.vocabulary.kept(plan.vocabulary), device=source.device)
            if whole.name == "lm_head":
                yield Difference(whole.name, 0, rows, source[rows] - stored, source[rows], hessians[0])
                return
            lost = source.clone()
            lost[rows] -= stored
            yield Difference(whole.name, 0, None, lost, source, hessians[0])
            return
        for index, (old, new) in enumerate(zip(whole.matrices, there.matrices, strict=True)):
            yield Difference(whole.name, index, None, matrix(old) - matrix(new), matrix(old), hessians[index])


@dataclass(frozen=True)
class OptionErrors:
    """A proxy: the sum over units of what `measure` makes of what is lost there, once for all plans that share it.

    `known` are sums by what a unit's values are called; it grows.
    """

    deviations: Deviations
    measure: Callable[[Difference], float]
    known: dict[str, float] = field(default_factory=dict)

    @torch.no_grad()
    def __call__(self, tryout: Tryout) -> float:
        values = tryout.candidate.values
        called = {name: values.get(name, f"{name}, removed") for name in self.deviations.names}
        found = dict.fromkeys((name for name, one in called.items() if one not in self.known), 0.0)
        if found:
            for one in self.deviations.of(tryout, found):
                found[one.unit] += self.measure(one)
        self.known.update({called[name]: error for name, error in found.items()})
        return sum(self.known[one] for one in called.values())


def weight_error(lost: Difference) -> float:
    """The squared error of the outputs over the outputs' power."""
    return lost.share()


def gradient_error(squares: Callable[[], Squares]) -> Callable[[Difference], float]:
    """Sum over entries of squared gradient times squared error: the loss's second-order change by an empirical Fisher.

    As NVIDIA's ModelOpt scores quantisation options; one pass over some rows serves all plans.
    """

    def measure(one: Difference) -> float:
        found = squares()[one.unit, one.index].to(one.lost.device)
        return float((one.lost.square() * (found if one.rows is None else found[one.rows])).sum())

    return measure


@torch.enable_grad()
def squared_gradients(source: Source, batches: Iterable[Batch]) -> Squares:
    """Mean over batches of the squared gradient of the references' loss (nats a token), matrix by matrix.

    In host memory: they are as large as the model.
    """
    model, count = source.model, 0
    found: dict[tuple[str, int], Tensor] = {}
    modules: Sequence[tuple[tuple[str, int], nn.Module]] = [
        ((place.name, index), module)
        for place in places(model, uniform_plan(source.layout, WHOLE))
        for index, module in enumerate(place.matrices)
    ]
    model.requires_grad_(True)
    try:
        for made in batches:
            batch = made.to(device_of(model))
            model.zero_grad(set_to_none=True)
            torch.autograd.backward(nn.functional.cross_entropy(target_logits(model, batch), batch.targets))
            for key, module in modules:
                gradient = module.weight.grad
                assert isinstance(gradient, Tensor)
                square = gradient.reshape(len(gradient), -1).square().to(HOST)
                found[key] = found[key].add_(square) if key in found else square
            count += 1
    finally:
        model.zero_grad(set_to_none=True)
        model.requires_grad_(False)
    return {key: squares / max(1, count) for key, squares in found.items()}
