"""One's own data as a list: a line of JSON for each utterance."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from corpora.readings import Reading, Readings, file_bytes, text_lines
from space.errors import UserError

_FIELDS = ("audio", "text", "talk", "prompt", "references", "id", "role")


def read_manifest(path: Path, languages: Sequence[str], roles: Sequence[str]) -> Readings:
    """Utterances of a manifest; audio paths are relative to its folder.

    Each line is an object with `audio` and `references` (an object of language codes), and may have `text` (English),
    `talk`, `prompt` (an instruction of its own), `id` and `role`. Without a talk an utterance is one of its own.
    Raises UserError naming the line.
    """
    utterances = []
    for number, line in enumerate(text_lines(path, "--data"), 1):
        if line.strip():
            utterances.append(_reading(path, number, line, languages, roles))
    if not utterances:
        raise UserError(f"--data {path}: no lines; give one for each utterance")
    with_role = sum(one.part is not None for one in utterances)
    if with_role not in (0, len(utterances)):
        raise UserError(
            f"--data {path}: {with_role} of {len(utterances)} lines have a role; give all of them one, or none, and "
            "talks are dealt"
        )
    return Readings(path.stem, tuple(utterances))


def _reading(path: Path, number: int, line: str, languages: Sequence[str], roles: Sequence[str]) -> Reading:
    where = f"--data {path}, line {number}"
    try:
        row: Any = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where}: not JSON ({error}); write an object with {', '.join(_FIELDS)}") from error
    if not isinstance(row, dict):
        raise UserError(f"{where}: no object; write one with {', '.join(_FIELDS)}")
    if unknown := sorted(set(row) - set(_FIELDS)):
        raise UserError(f"{where}: there is no field {unknown[0]!r}; choose from {', '.join(_FIELDS)}")
    texts = {name: _text(row, name, where) for name in ("audio", "text", "talk", "prompt", "id", "role")}
    given = row.get("references")
    references = given if isinstance(given, dict) else {}
    lacking = [code for code in languages if not isinstance(references.get(code), str) or not references[code].strip()]
    if lacking or not texts["audio"]:
        raise UserError(f"{where}: lacks {'audio' if not texts['audio'] else f'a reference in {lacking[0]}'}; add it")
    if texts["role"] and texts["role"] not in roles:
        raise UserError(f"{where}: role {texts['role']!r}; choose from {', '.join(roles)}")
    name = texts["id"] or f"line-{number}"
    return Reading(
        id=name,
        talk=texts["talk"] or name,
        audio=file_bytes(path.parent / texts["audio"], where),
        references={code: references[code].strip() for code in languages},
        english=texts["text"],
        prompt=texts["prompt"],
        part=texts["role"],
    )


def _text(row: dict[str, Any], name: str, where: str) -> str | None:
    value = row.get(name)
    if value is not None and not isinstance(value, str):
        raise UserError(f"{where}: {name} is {value!r}; write it as text")
    return value.strip() or None if value is not None else None
