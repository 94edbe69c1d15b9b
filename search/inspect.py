"""A model folder looked at by itself: its bytes by part, its scores on a role."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoProcessor

from compress.checkpoint import PLAN, WEIGHTS, folder_bytes, is_checkpoint, load_checkpoint
from corpora.roles import DIRECTIONS, open_corpus
from models.qwen2_audio import load_source, read_layout
from search.finalists import Exam
from search.settings import check_directions
from space.bins import bin_of
from space.plan import plan_from_json
from space.size import unit_bytes, units


def measure_size(folder: Path) -> dict[str, Any]:
    """Bytes of a checkpoint by part of the model, of any other model folder by file; and the bin they fall in."""
    layout = read_layout(folder)
    files = {p.relative_to(folder).as_posix(): p.stat().st_size for p in folder.rglob("*") if p.is_file()}
    parts = _parts(folder, files) if is_checkpoint(folder) else files
    total = folder_bytes(folder)
    assert sum(parts.values()) == total
    return {
        "path": str(folder),
        "bytes": total,
        "bin": bin_of(total, layout.source_bytes),
        "source_bytes": layout.source_bytes,
        "parts": parts,
    }


def _parts(folder: Path, files: dict[str, int]) -> dict[str, int]:
    """Weights by tower and kind, what is left of the weights' file, then every other file."""
    plan = plan_from_json((folder / PLAN).read_text())
    parts: dict[str, int] = {}
    for unit in units(read_layout(folder), plan):
        tower, _, rest = unit.name.partition(".")
        name = f"{tower} {rest.split('.')[-1]}" if rest else tower
        parts[name] = parts.get(name, 0) + unit_bytes(unit)
    parts["header"] = files[WEIGHTS] - sum(parts.values())
    return parts | {name: size for name, size in files.items() if name != WEIGHTS}


def evaluate_folder(folder: Path, data: Path, directions: Sequence[str], role: str, batch_size: int) -> dict[str, Any]:
    """Scores of a checkpoint or an uncompressed model folder on a role of a corpus."""
    check_directions(directions)
    if is_checkpoint(folder):
        model, _ = load_checkpoint(folder)
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    else:
        source = load_source(folder)
        model, processor = source.model, source.processor
    exam = Exam(
        open_corpus(data, [DIRECTIONS[direction] for direction in directions]), directions, processor, batch_size
    )
    return {"path": str(folder), "bytes": folder_bytes(folder), "role": role, "scores": exam.scores(model, role)}
