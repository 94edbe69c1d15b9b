"""Second moments of every matrix's inputs over calibration utterances: what errors are weighed with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compress.gptq import Hessian
from compress.units import weight
from models.anatomy import Place, places
from models.inputs import Batch, target_logits
from space.plan import Plan

# By unit, the moments of the inputs of each of its matrices; matrices with one input share one object.
Hessians = Mapping[str, tuple[Hessian, ...]]


class Sum:
    """A running sum over a module's inputs: x x^T and x of vectors, how often of indices."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.count = module, 0
        self.moments, self.first = torch.zeros(()), torch.zeros(())

    def add(self, _module: nn.Module, inputs: tuple[Any, ...]) -> None:
        seen = inputs[0].detach()
        if seen.is_floating_point():
            vectors = self._vectors(seen.float())
            self.moments, self.first = self.moments + vectors.T @ vectors, self.first + vectors.sum(0)
            self.count += len(vectors)
        else:
            self.moments = self.moments + torch.bincount(seen.reshape(-1), minlength=len(weight(self.module))).float()
            self.count += seen.numel()

    def _vectors(self, inputs: Tensor) -> Tensor:
        """What a row of weights is multiplied with (positions, columns)."""
        if not isinstance(self.module, nn.Conv1d):
            return inputs.reshape(-1, inputs.shape[-1])
        stride, size, padding = self.module.stride[0], self.module.kernel_size[0], int(self.module.padding[0])
        windows = nn.functional.pad(inputs, (padding, padding)).unfold(2, size, stride)
        return windows.permute(0, 2, 1, 3).reshape(-1, windows.shape[1] * size)

    def hessian(self) -> Hessian:
        """Of all inputs so far; of a module that had none the identity."""
        if isinstance(self.module, nn.Embedding):
            # Laplace's rule: what calibration did not say is said sometimes
            rows = len(weight(self.module))
            return Hessian((self.moments + torch.ones(rows)) / (self.count + rows))
        if not self.count:
            columns = weight(self.module)[0].numel()
            return Hessian(torch.eye(columns), torch.zeros(columns))
        return Hessian(self.moments / self.count, self.first / self.count)


@dataclass(frozen=True)
class Behind:
    """What the sublayers behind one add to the states, of its own tower, seen from the inputs x of its last matrix.

    For the outputs o of each: `moments` E[x o^T] (sublayers, columns, hidden) and `means` E[o] (sublayers, hidden).
    """

    moments: Tensor
    means: Tensor

    def of(self, sublayers: int) -> tuple[Tensor, Tensor]:
        """E[x o^T] (columns, hidden) and E[o] (hidden,) for what the first `sublayers` add together."""
        return self.moments[:sublayers].sum(0), self.means[:sublayers].sum(0)


class _Tower:
    """Running sums over the sublayers of a tower: what goes into the last matrix of each, and what comes out."""

    def __init__(self) -> None:
        self.seen: dict[str, tuple[Tensor, Tensor]] = {}
        self.moments: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        self.count = 0

    def hook(self, name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        def see(_module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            inside, outside = (x.detach().float().reshape(-1, x.shape[-1]) for x in (inputs[0], output))
            self.seen[name] = inside, outside

        return see

    def add(self) -> None:
        """Adds what was seen since the last call."""
        names = list(self.seen)
        for index, name in enumerate(names):
            inside, outside = self.seen[name]
            self.outputs[name] = self.outputs.get(name, torch.zeros(())) + outside.sum(0)
            if later := names[index + 1 :]:
                crossed = inside.T @ torch.cat([self.seen[other][1] for other in later], dim=1)
                crossed = crossed.view(len(crossed), len(later), -1).permute(1, 0, 2)
                self.moments[name] = self.moments.get(name, torch.zeros(())) + crossed
        self.count += len(self.seen[names[0]][0]) if names else 0
        self.seen.clear()

    def behind(self) -> Iterator[tuple[str, Behind]]:
        names = list(self.outputs)
        for index, name in enumerate(names[:-1]):
            means = torch.stack([self.outputs[other] / self.count for other in names[index + 1 :]])
            yield name, Behind(self.moments[name] / self.count, means)


@dataclass(frozen=True)
class Measured:
    """Hessians of a model, what is behind each sublayer but a tower's last, and what is odd about the inputs."""

    hessians: Hessians
    behind: Mapping[str, Behind]
    findings: tuple[str, ...]


@torch.no_grad()
def measure(model: PreTrainedModel, plan: Plan, batches: Iterable[Batch]) -> Measured:
    """Hessians of all matrices of a model carved by a plan.

    Padded positions count like others: batches of one utterance have few. Raises UserError where inputs hold NaN.
    """
    sums: dict[str, tuple[Sum, ...]] = {}
    towers: dict[str, _Tower] = {}
    with ExitStack() as hooks:
        for place in places(model, plan):
            sums[place.name] = watched(place, hooks)
            tower, _, sublayer = place.name.partition(".")
            if sublayer:
                seen = towers.setdefault(tower, _Tower()).hook(place.name)
                hooks.callback(place.matrices[-1].register_forward_hook(seen).remove)
        for batch in batches:
            target_logits(model, batch)
            for tower_sums in towers.values():
                tower_sums.add()
    hessians = {name: hessians_of(running) for name, running in sums.items()}
    behind = {name: found for tower_sums in towers.values() for name, found in tower_sums.behind()}
    found = [line for name, of in hessians.items() for one in dict.fromkeys(of) for line in one.findings(name)]
    return Measured(hessians, behind, tuple(found))


def watched(place: Place, hooks: ExitStack) -> tuple[Sum, ...]:
    """Sums over the inputs of each matrix of a unit, which run until the hooks are closed.

    All matrices of a sublayer but the last have one input and share one sum.
    """
    running: list[Sum] = []
    for position, module in enumerate(place.matrices):
        if "." in place.name and 0 < position < len(place.matrices) - 1:
            running.append(running[0])
        else:
            running.append(Sum(module))
            hooks.callback(module.register_forward_pre_hook(running[-1].add).remove)
    return tuple(running)


def hessians_of(running: Sequence[Sum]) -> tuple[Hessian, ...]:
    """A Hessian for each sum; matrices that share a sum share one object."""
    by_sum = {id(one): one.hessian() for one in dict.fromkeys(running)}
    return tuple(by_sum[id(one)] for one in running)
