"""A model folder looked at by itself: its bytes by part, its scores on a role."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compress.checkpoint import WEIGHTS, folder_bytes, is_checkpoint, load_checkpoint, read_plan
from corpora.roles import DIRECTIONS, open_corpus
from models.qwen2_audio import check_tokenizer, load_processor, load_source, read_layout
from search.finalists import Exam
from search.settings import check_directions
from space.bins import bin_of
from space.errors import UserError
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
    layout, plan = read_plan(folder)
    parts: dict[str, int] = {}
    for unit in units(layout, plan):
        tower, _, rest = unit.name.partition(".")
        name = f"{tower} {rest.split('.')[-1]}" if rest else tower
        parts[name] = parts.get(name, 0) + unit_bytes(unit)
    parts["header"] = files[WEIGHTS] - sum(parts.values())
    return parts | {name: size for name, size in files.items() if name != WEIGHTS}


def evaluate_folder(folder: Path, data: Path, directions: Sequence[str], role: str, batch_size: int) -> dict[str, Any]:
    """Scores of a checkpoint or an uncompressed model folder on a role of a corpus."""
    check_directions(directions)
    if batch_size < 1:
        raise UserError(f"--batch-size {batch_size}: at least 1 utterance at once")
    corpus = open_corpus(data, [DIRECTIONS[direction] for direction in directions])
    if is_checkpoint(folder):
        model, _ = load_checkpoint(folder)
        processor = load_processor(folder)
        check_tokenizer(processor, model, folder)
    else:
        source = load_source(folder)
        model, processor = source.model, source.processor
    exam = Exam(corpus, directions, processor, corpus.fingerprint(), batch_size)
    return {"path": str(folder), "bytes": folder_bytes(folder), "role": role, "scores": exam.scores(model, role)}
