"""Checkpoint folders: written whole or not at all, weighed by `stat`, loaded back to the same values."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel

from compress.tensors import save_tensors
from compress.units import UnitWeights, to_bytes
from models.anatomy import carve
from models.devices import current
from models.loading import Source, check_tokenizer, empty_model, load_processor, read_layout, tensor_shapes
from models.modeling_tightfit import PLAN, WEIGHTS, check_sums, fill
from models.packaging import summed
from space.errors import UserError
from space.layout import Layout
from space.misfit import misfit
from space.plan import Plan, plan_from_json
from space.rates import Coded
from space.size import most_unit_bytes, unit_bytes, units


def write_checkpoint(folder: Path, source: Source, plan: Plan, stored: Iterable[UnitWeights]) -> int:
    """Writes weights, plan and fixed files; returns the folder's bytes as `stat` gives them.

    The folder appears whole: everything goes to a temporary name beside it, is flushed and renamed. A folder that was
    there before is moved aside first and removed last.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    tensors = {x.unit.name: torch.frombuffer(bytearray(to_bytes(x)), dtype=torch.uint8) for x in stored}
    save_tensors(tensors, temporary / WEIGHTS)
    (temporary / PLAN).write_text(plan.to_json())
    for name, data in source.vocabulary.fixed_files(plan.vocabulary).items():
        (temporary / name).write_bytes(data)
    summed(temporary)
    appear(temporary, folder)
    return folder_bytes(folder)


def appear(temporary: Path, folder: Path) -> None:
    """Flushes a finished folder and gives it its name; one that had the name before is moved aside and removed."""
    for path in temporary.iterdir():
        path.chmod(0o644)  # safetensors writes for the owner alone
        with path.open("rb") as file:
            os.fsync(file.fileno())
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.replace(old)
    temporary.replace(folder)
    shutil.rmtree(old, ignore_errors=True)


def read_plan(folder: Path) -> tuple[Layout, Plan]:
    """Layout and plan of a checkpoint, and the proof that its files are whole and fit each other; no weight is decoded.

    Raises UserError naming the file that is damaged, missing or does not fit.
    """
    layout = read_layout(folder)
    try:
        check_sums(str(folder))
        plan = plan_from_json((folder / PLAN).read_text())
        found = tensor_shapes(folder / WEIGHTS)
    except (ValueError, OSError, SafetensorError) as error:
        # of a ValueError the message is whole: it names the folder and what to do
        text = str(error) if isinstance(error, ValueError) else f"{folder}: not readable ({error}); copy it again"
        raise UserError(text) from error
    if wrong := misfit(plan, layout):
        raise UserError(f"{folder}: {PLAN} does not fit config.json ({wrong.what}); copy the checkpoint again")
    spare_bytes = 0
    for unit in units(layout, plan):
        shape, most = found.get(unit.name, ()), most_unit_bytes(unit)
        fits = shape == (most,) or (isinstance(unit.rate, Coded) and len(shape) == 1 and shape[0] <= most)
        if not fits:
            raise UserError(f"{folder}: {unit.name} in {WEIGHTS} does not fit {PLAN}; copy the checkpoint again")
        spare_bytes += unit_bytes(unit) - shape[0]
    if spare_bytes < 0:
        raise UserError(f"{folder}: {WEIGHTS} is larger than {PLAN} says; copy the checkpoint again")
    return layout, plan


def folder_bytes(folder: Path) -> int:
    """Bytes of every file in a folder and below it, by `stat`."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder holds a plan, as a compressed model does."""
    return (folder / PLAN).exists()


def load_checkpoint(folder: Path) -> tuple[PreTrainedModel, Plan]:
    """The compressed model in float32 and its plan. Raises UserError for a folder that is damaged or incomplete."""
    _, plan = read_plan(folder)
    model = empty_model(folder)
    carve(model, plan)
    try:
        with torch.no_grad():
            fill(model, json.loads(plan.to_json()), str(folder / WEIGHTS))
    except ValueError as error:
        raise UserError(str(error)) from error
    return model, plan


def load_translator(folder: Path) -> tuple[PreTrainedModel, Any]:
    """The model of a checkpoint, on the current device, and the processor stored with it.

    Raises UserError where either is not whole.
    """
    model, _ = load_checkpoint(folder)
    model = model.to(current().device)
    processor = load_processor(folder)
    check_tokenizer(processor, model, folder)
    return model, processor
