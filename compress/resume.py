"""Training that was stopped goes on: parameters, the optimiser's moments and the best state in one safetensors file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from compress.tensors import save_tensors
from models.devices import HOST
from space.files import whole_file


@dataclass(frozen=True)
class TrainingFile:
    """Where a training's state is kept, and what it is of: the state of another training is not taken up.

    A state is written every `every` steps and after the last one, whole or not at all.
    """

    path: Path
    key: str
    every: int = 50

    def stage(self, name: str) -> TrainingFile:
        """The file of one stage of several."""
        return TrainingFile(self.path.with_name(f"{self.path.name}.{name}"), f"{self.key}|{name}", self.every)

    def read(self) -> tuple[int, float, dict[str, Tensor]] | None:
        """Steps done, the best judgement so far and tensors by name; None where there is nothing to take up."""
        try:
            with safe_open(self.path, framework="pt") as file:
                about = file.metadata() or {}
                if about.get("key") != self.key:
                    return None
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                return int(about["step"]), float(about["best"]), tensors
        except (OSError, SafetensorError, KeyError, ValueError):
            return None

    def write(self, step: int, best: float, tensors: dict[str, Tensor]) -> None:
        """Replaces the state."""
        with whole_file(self.path) as temporary:
            save_tensors(tensors, temporary, {"key": self.key, "step": str(step), "best": repr(best)})


def state_of(parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer, best: list[Tensor]) -> dict[str, Tensor]:
    """Everything a step depends on, by name; `best` are the parameters that were judged best, none before the first."""
    tensors = {f"parameter.{i}": parameter.detach() for i, parameter in enumerate(parameters)}
    for i, parameter in enumerate(parameters):
        for name, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{name}.{i}"] = value
    tensors |= {f"best.{i}": value for i, value in enumerate(best)}
    return {name: value.to(HOST).contiguous() for name, value in tensors.items()}


@torch.no_grad()
def restore(
    parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]
) -> list[Tensor]:
    """Inverse of `state_of`; returns the best parameters."""
    for i, parameter in enumerate(parameters):
        parameter.copy_(tensors[f"parameter.{i}"])
        if f"step.{i}" in tensors:
            moments = {name: tensors[f"{name}.{i}"].to(parameter.device) for name in ("exp_avg", "exp_avg_sq")}
            # AdamW counts steps in host memory
            optimizer.state[parameter] = {"step": tensors[f"step.{i}"], **moments}
    return [tensors[f"best.{i}"] for i in range(len(parameters)) if f"best.{i}" in tensors]
