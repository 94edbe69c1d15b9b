"""Checkpoint folders: written whole or not at all, weighed by `stat`, loaded back to the same values."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import Qwen2AudioForConditionalGeneration

from compress.units import UnitWeights, from_bytes, put, to_bytes
from models.qwen2_audio import Source, carve, empty_model, places, read_layout
from space.errors import UserError
from space.plan import Plan, plan_from_json
from space.size import unit_bytes, units

WEIGHTS, PLAN = "model.safetensors", "plan.json"


def write_checkpoint(folder: Path, source: Source, plan: Plan, stored: Iterable[UnitWeights]) -> int:
    """Writes weights, plan and fixed files; returns the folder's bytes as `stat` gives them.

    The folder appears whole: everything goes to a temporary name beside it, is flushed and renamed. A folder that was
    there before is replaced.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    tensors = {x.unit.name: torch.frombuffer(bytearray(to_bytes(x)), dtype=torch.uint8) for x in stored}
    save_file(tensors, temporary / WEIGHTS)
    (temporary / PLAN).write_text(plan.to_json())
    for name, data in source.fixed_files.items():
        (temporary / name).write_bytes(data)
    for path in temporary.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    shutil.rmtree(folder, ignore_errors=True)
    temporary.replace(folder)
    return folder_bytes(folder)


def folder_bytes(folder: Path) -> int:
    """Bytes of every file in a folder and below it, by `stat`."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder holds a plan, as a compressed model does."""
    return (folder / PLAN).exists()


def load_checkpoint(folder: Path) -> tuple[Qwen2AudioForConditionalGeneration, Plan]:
    """The compressed model in float32 and its plan. Raises UserError for a folder that is damaged or incomplete."""
    layout = read_layout(folder)
    try:
        plan = plan_from_json((folder / PLAN).read_text())
        tensors = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError, UnicodeDecodeError) as error:
        raise UserError(
            f"{folder}: {WEIGHTS} or {PLAN} is not readable ({error}); copy the checkpoint again"
        ) from error
    model = empty_model(folder)
    carve(model, plan)
    for unit, place in zip(units(layout, plan), places(model, plan), strict=True):
        tensor = tensors.get(unit.name)
        if tensor is None or tensor.numel() != unit_bytes(unit):
            raise UserError(f"{folder}: {unit.name} in {WEIGHTS} does not fit {PLAN}; copy the checkpoint again")
        put(from_bytes(tensor.numpy().tobytes(), unit, place), place)
    return model, plan
