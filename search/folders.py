"""A model folder looked at by itself: its bytes by part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compress.checkpoint import folder_bytes, is_checkpoint, read_plan
from models.loading import read_layout, tensor_shapes
from models.modeling_tightfit import WEIGHTS
from space.bins import DECIMAL, Units, bin_of
from space.size import tensor_bytes


def measure_size(folder: Path, units: Units = DECIMAL) -> dict[str, Any]:
    """Bytes of a checkpoint by part of the model, of any other model folder by file; and the bin they fall in.

    `bin_in_other_units` is there where the other kind of units puts the folder into another bin.
    """
    layout = read_layout(folder)
    files = {p.relative_to(folder).as_posix(): p.stat().st_size for p in folder.rglob("*") if p.is_file()}
    parts = _parts(folder, files) if is_checkpoint(folder) else files
    total = folder_bytes(folder)
    assert sum(parts.values()) == total
    here, there = (bin_of(total, layout.source_bytes, one) for one in (units, units.other))
    return {
        "path": str(folder),
        "bytes": total,
        "units": str(units),
        "bin": here,
        **({"bin_in_other_units": there} if here != there else {}),
        "source_bytes": layout.source_bytes,
        "parts": parts,
    }


def _parts(folder: Path, files: dict[str, int]) -> dict[str, int]:
    """Weights by tower and kind, what is left of the weights' file, then every other file."""
    read_plan(folder)
    parts = tensor_bytes({name: shape[0] for name, shape in tensor_shapes(folder / WEIGHTS).items()})
    parts["header"] = files[WEIGHTS] - sum(parts.values())
    return parts | {name: size for name, size in files.items() if name != WEIGHTS}
