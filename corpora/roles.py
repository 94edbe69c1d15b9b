"""Examples and their roles. What is searched on is never reported on: roles share no talk."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
from numpy.typing import NDArray

from space.errors import UserError, first_line

ROLES = ("calibrate", "proxy", "select", "report")
BUNDLED = Path(__file__).parent / "bundled"
SAMPLE_RATE = 16_000
# Target language code of each direction the task has.
DIRECTIONS = {"en-de": "de", "en-zh": "zh"}


@dataclass(frozen=True)
class Example:
    """One utterance, 16 kHz mono samples in [-1, 1] or English text, and its references by language code.

    `prompt` is an instruction of its own, in place of the one that its direction has.
    """

    id: str
    talk: str
    utterance: NDArray[np.float32] | str
    references: dict[str, str]
    prompt: str | None = None


@dataclass
class Corpus:
    """A folder with one parquet file a role; a role is read when first asked for; `opened` tells which were.

    `heard` says whether utterances are audio, or English text for models that read.
    """

    folder: Path
    languages: tuple[str, ...]
    heard: bool = True
    opened: dict[str, list[Example]] = field(default_factory=dict)

    def examples(self, role: str) -> list[Example]:
        """The examples of a role in file order. Raises UserError where the file is no longer readable."""
        if role not in self.opened:
            self.opened[role] = [
                Example(
                    id=row["id"],
                    talk=row["talk"],
                    utterance=decode_audio(row["audio"]["bytes"], row["id"]) if self.heard else row["en"],
                    references={code: row[code] for code in self.languages},
                )
                for row in _rows(self.folder / f"{role}.parquet", self.languages, heard=self.heard)
            ]
        return self.opened[role]

    def fingerprint(self) -> str:
        """A hash of every role's bytes: two corpora with one fingerprint hold the same data."""
        digest = hashlib.sha256()
        for role in ROLES:
            path = self.folder / f"{role}.parquet"
            digest.update(path.read_bytes() if path.exists() else b"")
        return digest.hexdigest()[:16]


def open_corpus(folder: Path, languages: Sequence[str] = tuple(DIRECTIONS.values()), *, heard: bool = True) -> Corpus:
    """The corpus in a folder, checked through: columns, references and audio of each role; no talk may have two roles.

    Where utterances are not `heard` the English text is read in place of audio.

    Raises UserError naming file and utterance. What is read for the check is forgotten: no role counts as opened.
    """
    missing = [f"{role}.parquet" for role in ROLES if not (folder / f"{role}.parquet").is_file()]
    if missing:
        raise UserError(
            f"--data {folder}: {', '.join(missing)} not there; a corpus is a folder with one parquet file for each of "
            f"{', '.join(ROLES)} (columns id, talk, audio, en, and a column for each target language)"
        )
    talks: dict[str, str] = {}
    for role in ROLES:
        for row in _rows(folder / f"{role}.parquet", languages, heard=heard):
            if heard:
                decode_audio(row["audio"]["bytes"], row["id"])
            other = talks.setdefault(row["talk"], role)
            if other != role:
                raise UserError(
                    f"--data {folder}: talk {row['talk']!r} is in {other} and in {role}; give each talk to one role, "
                    "or what is searched on is reported on"
                )
    return Corpus(folder, tuple(languages), heard)


def _rows(path: Path, languages: Sequence[str], *, heard: bool) -> list[dict[str, Any]]:
    """The rows of a role's file, every column and reference checked to be there; audio stays encoded."""
    texts = ["id", "talk", *([] if heard else ["en"]), *languages]
    columns = [*texts, "audio"] if heard else texts
    try:
        found = pq.read_schema(path).names
        missing = [name for name in columns if name not in found]
        rows: list[dict[str, Any]] = [] if missing else pq.read_table(path, columns=columns).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"--data {path}: not a readable parquet file ({first_line(error)}); write it again") from error
    if missing:
        raise UserError(f"--data {path}: no column {', '.join(missing)}, only {', '.join(found)}; write it again")
    if not rows:
        raise UserError(f"--data {path}: no rows; a role needs at least one utterance")
    for row in rows:
        if heard and (not isinstance(row["audio"], dict) or not isinstance(row["audio"].get("bytes"), bytes)):
            raise UserError(f"--data {path}: utterance {row['id']!r} has no audio bytes; write it again")
        if not all(row[name] for name in texts):
            lacking = ", ".join(name for name in texts if not row[name])
            raise UserError(f"--data {path}: utterance {row['id']!r} lacks {lacking}; remove or mend it")
    return rows


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
