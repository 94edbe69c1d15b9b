"""What readers of other forms of data give: utterances by talk, before they have roles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from space.errors import UserError


@dataclass(frozen=True)
class Reading:
    """One utterance: encoded audio, English text (where it is known) and references by language code.

    `part` is the split it stands in, or the role that its data says it has; None where they say neither.
    """

    id: str
    talk: str
    audio: bytes
    references: Mapping[str, str]
    english: str | None = None
    prompt: str | None = None
    part: str | None = None


@dataclass(frozen=True)
class Readings:
    """Utterances in their order, and encoded audio of whole talks by name, where there is any.

    `constrained` says whether it is data of ACL 60/60, which the constrained condition allows.
    """

    name: str
    utterances: tuple[Reading, ...]
    talks: Mapping[str, bytes] = field(default_factory=dict)
    constrained: bool = False


def file_bytes(path: Path, what: str) -> bytes:
    """Raises UserError, saying `what` the file would be, where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{what}: {path} cannot be read ({error.strerror}); put it there, or mend the list") from error


def text_lines(path: Path, what: str) -> list[str]:
    """Lines of a UTF-8 file, ended by line feeds alone. Raises UserError where it cannot be read as that."""
    try:
        text = file_bytes(path, what).decode("utf-8-sig").replace("\r\n", "\n")
        return text.removesuffix("\n").split("\n") if text else []
    except UnicodeDecodeError as error:
        raise UserError(f"{what}: {path} is not UTF-8 (byte {error.start}); convert it") from error
