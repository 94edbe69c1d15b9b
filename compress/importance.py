"""Second moments of every matrix's inputs over calibration utterances: what errors are weighed with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compress.gptq import Hessian
from compress.units import weight
from models.anatomy import places
from models.inputs import Batch, target_logits
from space.plan import Plan

# By unit, the moments of the inputs of each of its matrices; matrices with one input share one object.
Hessians = Mapping[str, tuple[Hessian, ...]]


class _Sum:
    """A running sum over a module's inputs: x x^T of vectors, how often of indices."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.total, self.count = module, torch.zeros(0), 0

    def add(self, _module: nn.Module, inputs: tuple[Any, ...]) -> None:
        found = self._seen(inputs[0])
        self.total = found if not len(self.total) else self.total + found
        self.count += inputs[0].numel() // (inputs[0].shape[-1] if inputs[0].is_floating_point() else 1)

    def _seen(self, inputs: Tensor) -> Tensor:
        if not inputs.is_floating_point():
            return torch.bincount(inputs.reshape(-1), minlength=len(weight(self.module))).float()
        flat = inputs.detach().float().reshape(-1, inputs.shape[-1])
        if isinstance(self.module, nn.Conv1d):
            stride, size, padding = self.module.stride[0], self.module.kernel_size[0], int(self.module.padding[0])
            windows = nn.functional.pad(inputs.detach().float(), (padding, padding)).unfold(2, size, stride)
            flat = windows.permute(0, 2, 1, 3).reshape(-1, windows.shape[1] * size)
        return flat.T @ flat

    def hessian(self) -> Hessian:
        if isinstance(self.module, nn.Embedding):
            # Laplace's rule: what calibration did not say is said sometimes
            counts = self.total if len(self.total) else torch.zeros(len(weight(self.module)))
            return Hessian((counts + 1) / (self.count + len(counts)))
        columns = weight(self.module)[0].numel()
        return Hessian(self.total / max(1, self.count) if len(self.total) else torch.eye(columns))


@dataclass(frozen=True)
class Measured:
    """Hessians of a model, and what is odd about its inputs, a line each."""

    hessians: Hessians
    findings: tuple[str, ...]


@torch.no_grad()
def measure(model: PreTrainedModel, plan: Plan, batches: Iterable[Batch]) -> Measured:
    """Hessians of all matrices of a model carved by a plan.

    Padded positions count like others: batches of one utterance have few. Raises UserError where inputs hold NaN.
    """
    sums: dict[str, tuple[_Sum, ...]] = {}
    with ExitStack() as hooks:
        for place in places(model, plan):
            shared = {}
            for module, key in zip(place.matrices, _inputs(place.name, len(place.matrices)), strict=True):
                if key not in shared:
                    shared[key] = _Sum(module)
                    hooks.callback(module.register_forward_pre_hook(shared[key].add).remove)
            sums[place.name] = tuple(shared[key] for key in _inputs(place.name, len(place.matrices)))
        for batch in batches:
            target_logits(model, batch)
    hessians, findings = {}, []
    for name, running in sums.items():
        by_sum = {id(one): one.hessian() for one in running}
        hessians[name] = tuple(by_sum[id(one)] for one in running)
        for one in dict.fromkeys(hessians[name]):
            findings += one.findings(name)
    return Measured(hessians, tuple(findings))


def _inputs(name: str, count: int) -> list[int]:
    """Which input each matrix of a unit has: all but a sublayer's last share one."""
    return list(range(count)) if "." not in name else [0] * (count - 1) + [1]
