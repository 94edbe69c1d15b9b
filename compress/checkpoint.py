"""Checkpoint folders: written whole or not at all, weighed by `stat`, loaded back to the same values."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from compress.units import UnitWeights, from_bytes, put, to_bytes
from models.anatomy import carve, places
from models.loading import Source, check_tokenizer, empty_model, load_processor, read_layout, tensor_shapes
from space.errors import UserError
from space.layout import Layout
from space.plan import TABLES, Plan, plan_from_json
from space.size import unit_bytes, units

WEIGHTS, PLAN = "model.safetensors", "plan.json"


def write_checkpoint(folder: Path, source: Source, plan: Plan, stored: Iterable[UnitWeights]) -> int:
    """Writes weights, plan and fixed files; returns the folder's bytes as `stat` gives them.

    The folder appears whole: everything goes to a temporary name beside it, is flushed and renamed. A folder that was
    there before is moved aside first and removed last.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    tensors = {x.unit.name: torch.frombuffer(bytearray(to_bytes(x)), dtype=torch.uint8) for x in stored}
    try:
        save_file(tensors, temporary / WEIGHTS)
    except SafetensorError as error:
        raise OSError(f"{folder}: weights could not be written ({error})") from error
    (temporary / PLAN).write_text(plan.to_json())
    for name, data in source.vocabulary.fixed_files(plan.vocabulary).items():
        (temporary / name).write_bytes(data)
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
    return folder_bytes(folder)


def read_plan(folder: Path) -> tuple[Layout, Plan]:
    """Layout and plan of a checkpoint, and the proof that its weights' file is whole and fits them; no weight is read.

    Raises UserError naming the file that is damaged, missing or does not fit.
    """
    layout = read_layout(folder)
    try:
        plan = plan_from_json((folder / PLAN).read_text())
        found = tensor_shapes(folder / WEIGHTS)
    except UnicodeDecodeError as error:
        raise UserError(f"{folder}: {PLAN} is damaged ({error}); copy the checkpoint again") from error
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder}: {WEIGHTS} is not readable ({error}); copy the checkpoint again") from error
    _check_fits(folder, plan, layout)
    for unit in units(layout, plan):
        if found.get(unit.name) != (unit_bytes(unit),):
            raise UserError(f"{folder}: {unit.name} in {WEIGHTS} does not fit {PLAN}; copy the checkpoint again")
    return layout, plan


def _check_fits(folder: Path, plan: Plan, layout: Layout) -> None:
    """A plan fits a layout where it has its layers and keeps no more heads and channels than there are."""
    tables = all((getattr(plan, name) is not None) == (name in layout.tables) for name in TABLES)
    if not tables or not 0 < plan.vocabulary <= layout.vocabulary or (plan.encoder and layout.encoder is None):
        raise UserError(f"{folder}: {PLAN} does not fit config.json (tables); copy the checkpoint again")
    for tower in layout.towers:
        layers = plan.layers(tower)
        widths = all(
            0 <= layer.attention.kept <= tower.kv_heads and 0 <= layer.ffn.kept <= tower.ffn for layer in layers
        )
        if len(layers) != tower.layers or not widths:
            raise UserError(f"{folder}: {PLAN} does not fit config.json ({tower.name}); copy the checkpoint again")


def folder_bytes(folder: Path) -> int:
    """Bytes of every file in a folder and below it, by `stat`."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder holds a plan, as a compressed model does."""
    return (folder / PLAN).exists()


def load_checkpoint(folder: Path) -> tuple[PreTrainedModel, Plan]:
    """The compressed model in float32 and its plan. Raises UserError for a folder that is damaged or incomplete."""
    layout, plan = read_plan(folder)
    tensors = load_file(folder / WEIGHTS)
    model = empty_model(folder)
    carve(model, plan)
    for unit, place in zip(units(layout, plan), places(model, plan), strict=True):
        put(from_bytes(tensors[unit.name].numpy().tobytes(), unit, place), place)
    return model, plan


def load_translator(folder: Path) -> tuple[PreTrainedModel, Any]:
    """The model of a checkpoint and the processor stored with it. Raises UserError where either is not whole."""
    model, _ = load_checkpoint(folder)
    processor = load_processor(folder)
    check_tokenizer(processor, model, folder)
    return model, processor
