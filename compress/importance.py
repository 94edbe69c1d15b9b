"""Second moments of every matrix's inputs over calibration speech: what pruning and quantisation weigh errors with."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.anatomy import places
from models.inputs import Batch, target_logits
from models.loading import Source
from space.plan import uniform_plan
from space.size import WHOLE


@dataclass
class _Sum:
    """A running sum of squares of a module's inputs, by column."""

    total: Tensor | None = None
    count: int = 0

    def add(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        flat = inputs[0].detach().reshape(-1, inputs[0].shape[-1])
        squares = flat.double().pow(2).sum(0)
        self.total = squares if self.total is None else self.total + squares
        self.count += len(flat)

    def mean(self) -> Tensor | None:
        return None if self.total is None else (self.total / self.count).float()


@torch.no_grad()
def measure_moments(source: Source, batches: Iterable[Batch]) -> dict[str, tuple[Tensor | None, ...]]:
    """E[x^2] of the inputs of each matrix, by unit; None for tables looked up by token and for convolutions.

    Padded positions count like others: batches of one row have none.
    """
    sums: dict[str, tuple[_Sum, ...]] = {}
    with ExitStack() as hooks:
        for place in places(source.model, uniform_plan(source.layout, WHOLE)):
            sums[place.name] = tuple(_Sum() for _ in place.matrices)
            for module, running in zip(place.matrices, sums[place.name], strict=True):
                if isinstance(module, nn.Linear):
                    hooks.callback(module.register_forward_pre_hook(running.add).remove)
        for batch in batches:
            target_logits(source.model, batch)
    return {name: tuple(running.mean() for running in parts) for name, parts in sums.items()}
