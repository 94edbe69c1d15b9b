"""A model folder looked at by itself: its bytes by part, its scores on a role."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compress.checkpoint import folder_bytes, is_checkpoint, load_translator, read_plan
from corpora.roles import DIRECTIONS, open_corpus
from models.devices import PLAIN, Compute, computing
from models.loading import load_source, read_layout, tensor_shapes
from models.modeling_tightfit import WEIGHTS
from search.exam import Exam
from search.settings import check_directions
from space.bins import DECIMAL, Units, bin_of
from space.errors import UserError
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


def evaluate_folder(
    folder: Path, data: Path, directions: Sequence[str], role: str, batch_size: int, *, compute: Compute = PLAIN
) -> dict[str, Any]:
    """Scores of a checkpoint or an uncompressed model folder on a role of a corpus."""
    with computing(compute):
        return _evaluated(folder, data, directions, role, batch_size)


def _evaluated(folder: Path, data: Path, directions: Sequence[str], role: str, batch_size: int) -> dict[str, Any]:
    check_directions(directions)
    if batch_size < 1:
        raise UserError(f"--batch-size {batch_size}: at least 1 utterance at once")
    heard = read_layout(folder).encoder is not None
    corpus = open_corpus(data, [DIRECTIONS[direction] for direction in directions], heard=heard)
    if is_checkpoint(folder):
        model, processor = load_translator(folder)
    else:
        source = load_source(folder)
        model, processor = source.model, source.processor
    exam = Exam(corpus, directions, corpus.fingerprint(), batch_size)
    return {
        "path": str(folder),
        "bytes": folder_bytes(folder),
        "role": role,
        "scores": exam.scores(model, processor, role),
    }
