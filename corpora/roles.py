"""Examples and their roles. What is searched on is never reported on: roles share no talk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from corpora.audio import SAMPLE_RATE, decode_audio
from space.errors import UserError, first_line

ROLES = ("calibrate", "proxy", "select", "report")
BUNDLED = Path(__file__).parent / "bundled"
# What imported data say of themselves, and where audio of whole talks is.
ORIGIN, TALKS = "origin.json", "talks-{role}.parquet"
UNCONSTRAINED, CONSTRAINED = "unconstrained", "constrained"
CONDITIONS = (UNCONSTRAINED, CONSTRAINED)
# Where talks are only known as utterances, these are so far apart.
PAUSE_SECONDS = 0.5
# Target language code of each direction the task has.
DIRECTIONS = {"en-de": "de", "en-zh": "zh"}


@dataclass(frozen=True)
class Example:
    """One utterance, 16 kHz mono samples in [-1, 1] or English text, and its references by language code.

    `prompt` is an instruction of its own, in place of the one that its direction has; `english` is what is said, where
    that is known.
    """

    id: str
    talk: str
    utterance: NDArray[np.float32] | str
    references: dict[str, str]
    prompt: str | None = None
    english: str | None = None


@dataclass(frozen=True)
class Talk:
    """A whole talk, 16 kHz mono samples, and its utterances in their order."""

    name: str
    samples: NDArray[np.float32]
    examples: tuple[Example, ...]


@dataclass
class Corpus:
    """A folder with one parquet file a role; a role is read when first asked for; `opened` tells which were.

    `heard` says whether utterances are audio, or English text for models that read; None is for texts alone, and there
    may be no English. Who asks for a role that is `sealed` has a mistake in it: what is searched on is never reported
    on.
    """

    folder: Path
    languages: tuple[str, ...]
    heard: bool | None = True
    opened: dict[str, list[Example]] = field(default_factory=dict)
    sealed: set[str] = field(default_factory=set)

    def examples(self, role: str) -> list[Example]:
        """The examples of a role in file order. Raises UserError where the file is no longer readable."""
        assert role not in self.sealed, f"the {role} role is sealed: it is for finalists only"
        if role not in self.opened:
            self.opened[role] = [
                Example(
                    id=row["id"],
                    talk=row["talk"],
                    utterance=decode_audio(row["audio"]["bytes"], row["id"]) if self.heard else row.get("en") or "",
                    references={code: row[code] for code in self.languages},
                    prompt=row.get("prompt") or None,
                    english=row.get("en") or None,
                )
                for row in _rows(self.folder / f"{role}.parquet", self.languages, heard=self.heard)
            ]
        return self.opened[role]

    @contextmanager
    def unsealed(self, role: str) -> Iterator[None]:
        """Opens a role for as long as finalists are scored on it."""
        before = set(self.sealed)
        self.sealed.discard(role)
        try:
            yield
        finally:
            self.sealed = before

    def talks(self, role: str) -> list[Talk]:
        """The talks of a role in the order of their first utterances, which a talk's stand together.

        Audio that the data have of whole talks, else their utterances, a pause of half a second between each two.
        """
        assert self.heard
        groups: dict[str, list[Example]] = {}
        for example in self.examples(role):
            groups.setdefault(example.talk, []).append(example)
        whole = self._whole_talks(role)
        return [
            Talk(name, whole[name] if name in whole else _joined(examples), tuple(examples))
            for name, examples in groups.items()
        ]

    def _whole_talks(self, role: str) -> dict[str, NDArray[np.float32]]:
        path = self.folder / TALKS.format(role=role)
        if not path.is_file():
            return {}
        try:
            rows = pq.read_table(path).to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"--data {path}: not readable ({first_line(error)}); import the data again") from error
        return {row["talk"]: decode_audio(row["audio"]["bytes"], f"talk {row['talk']}") for row in rows}

    def has_whole_talks(self, role: str) -> bool:
        """Whether there is audio of whole talks, and not of their utterances alone."""
        return (self.folder / TALKS.format(role=role)).is_file()

    def fingerprint(self) -> str:
        """A hash of every role's bytes: two corpora with one fingerprint hold the same data."""
        return fingerprint_of(self.folder)

    @property
    def constrained(self) -> bool:
        """Whether these are data of ACL 60/60, imported and unchanged since."""
        try:
            origin = json.loads((self.folder / ORIGIN).read_text(encoding="utf-8"))
            return bool(origin["constrained"]) and origin["fingerprint"] == self.fingerprint()
        except (OSError, ValueError, KeyError, TypeError):
            return False


def fingerprint_of(folder: Path) -> str:
    """A hash of the bytes of every role in a folder, audio of whole talks included."""
    digest = hashlib.sha256()
    for name in (*(f"{role}.parquet" for role in ROLES), *(TALKS.format(role=role) for role in ROLES)):
        path = folder / name
        digest.update(path.read_bytes() if path.exists() else b"")
    return digest.hexdigest()[:16]


def check_condition(condition: str, corpus: Corpus, data: str) -> None:
    """Raises UserError where data are none that the condition allows (task page: nothing but ACL 60/60)."""
    if condition not in CONDITIONS:
        raise UserError(f"--condition {condition}: choose from {', '.join(CONDITIONS)}")
    if condition == CONSTRAINED and not corpus.constrained:
        raise UserError(
            f"--condition {CONSTRAINED}: {data} is not ACL 60/60, and nothing else may be used; give --data "
            f"acl6060:FOLDER, or --condition {UNCONSTRAINED}"
        )


def _joined(examples: Sequence[Example]) -> NDArray[np.float32]:
    pause = np.zeros(round(PAUSE_SECONDS * SAMPLE_RATE), np.float32)
    parts = [part for example in examples for part in (np.asarray(example.utterance, np.float32), pause)]
    return np.concatenate(parts)


def open_corpus(
    folder: Path, languages: Sequence[str] = tuple(DIRECTIONS.values()), *, heard: bool | None = True
) -> Corpus:
    """The corpus in a folder, checked through: columns, references and audio of each role; no talk may have two roles.

    Where utterances are not `heard` the English text is read in place of audio; None asks for references alone.

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


def _rows(path: Path, languages: Sequence[str], *, heard: bool | None) -> list[dict[str, Any]]:
    """The rows of a role's file, every column and reference checked to be there; audio stays encoded."""
    texts = ["id", "talk", *(["en"] if heard is False else []), *languages]
    columns = [*texts, "audio"] if heard else texts
    try:
        found = pq.read_schema(path).names
        missing = [name for name in columns if name not in found]
        more = [name for name in ("en", "prompt") if name in found and name not in columns]
        rows: list[dict[str, Any]] = [] if missing else pq.read_table(path, columns=[*columns, *more]).to_pylist()
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
