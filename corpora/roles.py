"""Examples and their roles. What is searched on is never reported on: roles share no talk."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
from datasets import load_dataset
from datasets.exceptions import DatasetGenerationError
from numpy.typing import NDArray

from space.errors import UserError, first_line

ROLES = ("calibrate", "proxy", "select", "report")
BUNDLED = Path(__file__).parent / "bundled"
SAMPLE_RATE = 16_000
# Target language code of each direction the task has.
DIRECTIONS = {"en-de": "de", "en-zh": "zh"}


@dataclass(frozen=True)
class Example:
    """One utterance: 16 kHz mono samples in [-1, 1] and its reference translations by language code."""

    id: str
    talk: str
    audio: NDArray[np.float32]
    references: dict[str, str]


@dataclass
class Corpus:
    """A folder with one parquet file a role; a role is read when first asked for; `opened` tells which were."""

    folder: Path
    opened: dict[str, list[Example]] = field(default_factory=dict)

    def examples(self, role: str) -> list[Example]:
        """The examples of a role in file order. Raises UserError where the file is missing or unreadable."""
        if role not in self.opened:
            self.opened[role] = _read(self.folder / f"{role}.parquet")
        return self.opened[role]

    def fingerprint(self) -> str:
        """A hash of every role's bytes: two corpora with one fingerprint hold the same data."""
        digest = hashlib.sha256()
        for role in ROLES:
            path = self.folder / f"{role}.parquet"
            digest.update(path.read_bytes() if path.exists() else b"")
        return digest.hexdigest()[:16]


def open_corpus(folder: Path, languages: Sequence[str] = tuple(DIRECTIONS.values())) -> Corpus:
    """The corpus in a folder. Raises UserError where a role's file is missing, damaged, empty or lacks a column.

    Only the files' heads are looked at: no role is opened by it.
    """
    missing = [f"{role}.parquet" for role in ROLES if not (folder / f"{role}.parquet").is_file()]
    if missing:
        raise UserError(
            f"--data {folder}: {', '.join(missing)} not there; a corpus is a folder with one parquet file for each of "
            f"{', '.join(ROLES)} (columns id, talk, audio, and a column for each target language)"
        )
    for role in ROLES:
        _check_table(folder / f"{role}.parquet", languages)
    return Corpus(folder)


def _check_table(path: Path, languages: Sequence[str]) -> None:
    try:
        table = pq.read_metadata(path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"--data {path}: not a readable parquet file ({first_line(error)}); write it again") from error
    columns = table.schema.to_arrow_schema().names
    missing = [name for name in ("id", "talk", "audio", *languages) if name not in columns]
    if missing or not table.num_rows:
        found = f"{table.num_rows} rows with columns {', '.join(columns)}"
        raise UserError(f"--data {path}: {found}; a role needs rows with id, talk, audio, {', '.join(languages)}")


def _read(path: Path) -> list[Example]:
    try:
        rows = list(load_dataset("parquet", data_files=str(path), split="train", streaming=True))
        return [
            Example(row["id"], row["talk"], decode_audio(row["audio"]["bytes"], row["id"]), _references(row))
            for row in rows
        ]
    except (pa.ArrowException, DatasetGenerationError, OSError, KeyError, TypeError) as error:
        reason = first_line(error.__cause__ or error)
        raise UserError(f"--data {path}: not readable as examples ({reason}); write it again") from error


def _references(row: dict[str, object]) -> dict[str, str]:
    return {code: str(row[code]) for code in DIRECTIONS.values() if row.get(code)}


def decode_audio(data: bytes, name: str) -> NDArray[np.float32]:
    """Samples of an encoded mono file at 16 kHz. Raises UserError naming the utterance where it is something else."""
    try:
        samples, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise UserError(f"audio of {name} is not readable ({error}); convert it to FLAC, WAV or Ogg") from error
    if rate != SAMPLE_RATE or samples.shape[1] != 1:
        raise UserError(f"audio of {name} has {rate} Hz and {samples.shape[1]} channels; convert it to 16 kHz mono")
    if not len(samples) or not np.isfinite(samples).all():
        raise UserError(f"audio of {name} is empty or holds NaN; remove the utterance")
    return np.asarray(samples[:, 0], dtype=np.float32)
