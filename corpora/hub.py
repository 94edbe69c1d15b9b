"""Data in the hub's form, read by `datasets`: splits with audio, text_en and a column for each language."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from corpora.readings import Reading, Readings, file_bytes
from space.errors import UserError, first_line

# Data sets of the hub that are ACL 60/60.
_ACL6060 = ("ymoslem/acl-6060",)


def read_hub(name: str, languages: Sequence[str]) -> Readings:
    """All splits of a data set, a name on the hub or a folder that `datasets` reads.

    Where it has no column `talk` the talk is not known, and all utterances of a split have one empty name.
    """
    utterances: list[Reading] = []
    for split, rows in _loaded(name).items():
        names = rows.column_names
        columns = {"en": _column(names, "en"), **{code: _column(names, code) for code in languages}}
        if lacking := [code for code in languages if columns[code] is None] or ["audio"] * ("audio" not in names):
            raise UserError(
                f"--data hf:{name}: split {split} has no column of {lacking[0]}, only {', '.join(names)}; name another"
            )
        utterances += [_reading(name, split, place, row, columns) for place, row in enumerate(rows)]
    return Readings(Path(name).name, tuple(utterances), constrained=name in _ACL6060)


def _loaded(name: str) -> dict[str, Any]:
    """Splits by name, audio left encoded."""
    try:
        from datasets import Audio, load_dataset  # noqa: PLC0415  seconds, and for this form alone
    except ImportError as error:
        raise UserError(f"--data hf:{name}: datasets is not installed; pip install 'datasets>=5'") from error
    try:
        found = load_dataset(name)
        return {
            split: rows.cast_column("audio", Audio(decode=False)) if "audio" in rows.column_names else rows
            for split, rows in found.items()
        }
    except Exception as error:  # whatever the hub, the network or the reader raised
        raise UserError(
            f"--data hf:{name}: cannot be loaded ({first_line(error)}); give a data set's name on the hub, or a folder"
        ) from error


def _column(names: Sequence[str], code: str) -> str | None:
    return next((name for name in (f"text_{code}", code) if name in names), None)


def _reading(name: str, split: str, place: int, row: dict[str, Any], columns: dict[str, str | None]) -> Reading:
    where = f"--data hf:{name}: row {place} of {split}"
    audio = row["audio"] or {}
    data = audio.get("bytes")
    if data is None:
        if not audio.get("path"):
            raise UserError(f"{where} has no audio; remove it")
        data = file_bytes(Path(audio["path"]), where)
    texts = {code: (row[column] or "").strip() for code, column in columns.items() if column}
    if empty := [code for code, text in texts.items() if not text and code != "en"]:
        raise UserError(f"{where} has no text in {empty[0]}; remove it")
    english = texts.pop("en", None)
    return Reading(
        id=f"{split}-{row.get('index', place)}",
        talk=str(row.get("talk") or ""),
        audio=data,
        references=texts,
        english=english or None,
        part=split,
    )
