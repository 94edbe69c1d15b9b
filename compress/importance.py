"""Second moments of every matrix's inputs over calibration utterances: what errors are weighed with.

And of the inputs of a sublayer's last matrix with the outputs of later sublayers: how it can make up for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compress.gptq import Hessian, moved
from compress.units import matrix, weight
from models.anatomy import Place, places
from models.devices import HOST, device_of, in_full
from models.inputs import Batch, target_logits
from models.room import until_it_fits
from space.plan import Plan

_LEAST_CROSSED_BYTES = 2 * 2**30

# By unit, the moments of the inputs of each of its matrices; matrices with one input share one object.
Hessians = Mapping[str, tuple[Hessian, ...]]


class Sum:
    """A running sum over a module's inputs: x x^T and x of vectors, how often of indices."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.count = module, 0
        self.moments, self.first = torch.zeros(()), torch.zeros(())

    @in_full
    def add(self, _module: nn.Module, inputs: tuple[Any, ...]) -> None:
        seen = inputs[0].detach()
        if seen.is_floating_point():
            vectors = self._vectors(seen.float())
            moments, first = vectors.T @ vectors, vectors.sum(0)
            # in place: on a GPU a third copy of the largest would be what there is no memory for
            self.moments = self.moments.add_(moments) if self.count else moments
            self.first = self.first.add_(first) if self.count else first
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
        """Of all inputs so far; without any, the identity, or of an embedding the uniform distribution."""
        if isinstance(self.module, nn.Embedding):
            # Laplace's rule: what calibration did not say is said sometimes
            rows = len(weight(self.module))
            return Hessian((self.moments + torch.ones(rows, device=self.moments.device)) / (self.count + rows))
        if not self.count:
            columns = weight(self.module)[0].numel()
            return Hessian(torch.eye(columns), torch.zeros(columns))
        return Hessian(self.moments / self.count, self.first / self.count)


@dataclass(frozen=True)
class Added:
    """What some sublayers add to the states, o, against the inputs x of a matrix: E[x o^T] (columns, hidden), E[o]."""

    moments: Tensor
    mean: Tensor

    def to(self, device: torch.device) -> Added:
        return Added(self.moments.to(device), self.mean.to(device))


@dataclass(frozen=True)
class Behind:
    """For one sublayer: what each of the next ones of its tower adds, against the inputs of its own last matrix.

    In the order in which they run in the whole model: `moments` (sublayers, columns, hidden), `means` (sublayers,
    hidden). Where memory was short the last ones are missing.
    """

    moments: Tensor
    means: Tensor

    def of(self, sublayers: int) -> Added:
        """What the next `sublayers` add together, or those of them that were measured."""
        return Added(self.moments[:sublayers].sum(0), self.means[:sublayers].sum(0))


class _Crossed:
    """Running sums over a tower: what goes into the last matrix of each sublayer, against what comes out of the next.

    `reach` is how many of the next ones.
    """

    def __init__(self, reach: int) -> None:
        self.reach = reach
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
            if later := names[index + 1 :][: self.reach]:
                crossed = inside.T @ torch.cat([self.seen[other][1] for other in later], dim=1)
                crossed = crossed.view(len(crossed), len(later), -1).permute(1, 0, 2)
                self.moments[name] = self.moments[name].add_(crossed) if name in self.moments else crossed
        self.count += len(self.seen[names[0]][0]) if names else 0
        self.seen.clear()

    def behind(self) -> Iterator[tuple[str, Behind]]:
        """By sublayer; of a tower's last one nothing is behind."""
        names = list(self.outputs)
        for index, name in enumerate(names):
            if name in self.moments:
                later = names[index + 1 :][: self.reach]
                means = torch.stack([self.outputs[other] / self.count for other in later])
                yield name, Behind((self.moments[name] / self.count).to(HOST), means.to(HOST))


@dataclass(frozen=True)
class Measured:
    """Hessians of a model, what is behind each sublayer but a tower's last, and what is odd about the inputs."""

    hessians: Hessians
    behind: Mapping[str, Behind]
    findings: tuple[str, ...]


def measure(model: PreTrainedModel, plan: Plan, batches: Iterable[Batch]) -> Measured:
    """Hessians of all matrices of a model carved by a plan, and what is behind its sublayers.

    Summed where the model is, and then in host memory: in one pass over the batches, or in two where there is no memory
    for both sums beside the model. Padded positions count like others: batches of one utterance have few. Raises
    UserError where inputs hold NaN, torch.OutOfMemoryError where there is no memory for one.
    """
    kept = list(batches)
    passes: list[Callable[..., tuple[Hessians, dict[str, Behind]]]] = [_summed]

    def each() -> list[tuple[Hessians, dict[str, Behind]]]:
        found = []
        for summed in passes:
            found.append(summed(model, plan, kept))
            # what solves for removal orders takes its memory beside torch's
            torch.cuda.empty_cache()
        return found

    def apart() -> bool:
        short = len(passes) == 1
        passes[:] = [partial(_summed, behind=False), partial(_summed, hessians=False)]
        return short

    found = until_it_fits(each, apart)
    hessians = {name: of for one, _ in found for name, of in one.items()}
    behind = {name: of for _, one in found for name, of in one.items()}
    odd = [line for name, of in hessians.items() for one in dict.fromkeys(of) for line in one.findings(name)]
    return Measured(hessians, behind, tuple(odd))


@torch.no_grad()
def _summed(
    model: PreTrainedModel, plan: Plan, batches: Sequence[Batch], *, hessians: bool = True, behind: bool = True
) -> tuple[Hessians, dict[str, Behind]]:
    """One pass over batches, for one of the two or for both."""
    sums: dict[str, tuple[Sum, ...]] = {}
    towers: dict[str, _Crossed] = {}
    reach = _reach(list(places(model, plan)))
    with ExitStack() as hooks:
        for place in places(model, plan):
            if hessians:
                sums[place.name] = watched(place, hooks)
            tower, _, sublayer = place.name.partition(".")
            if behind and sublayer:
                seen = towers.setdefault(tower, _Crossed(reach)).hook(place.name)
                hooks.callback(place.matrices[-1].register_forward_hook(seen).remove)
        for batch in batches:
            target_logits(model, batch.to(device_of(model)))
            for tower_sums in towers.values():
                tower_sums.add()
    return (
        {name: moved(hessians_of(running), HOST) for name, running in sums.items()},
        {name: found for tower_sums in towers.values() for name, found in tower_sums.behind()},
    )


def _reach(whole: Sequence[Place]) -> int:
    """How many later sublayers what is behind each can be measured for: as many as Hessians have memory, or 2 GiB."""
    hessians = sum(matrix(module).shape[1] ** 2 for place in whole if "." in place.name for module in place.matrices)
    one = sum(matrix(place.matrices[-1]).numel() for place in whole if "." in place.name)
    return max(_LEAST_CROSSED_BYTES, 4 * hessians) // max(1, 4 * one)


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
