"""Translations on the way: kept line by line, so that a killed evaluation goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from space.files import write_whole


class KeptTexts:
    """Texts by name in a file, whose first line is the key of what makes them; those of another key are dropped.

    A line that a kill left half written is dropped, too. Processes that make texts of one key may share a file: what
    one of them loses of another's is made again.
    """

    def __init__(self, path: Path, key: str) -> None:
        self._path, self._key = path, key
        self.texts: dict[str, str] = self._read()
        self._begun = False

    def _read(self) -> dict[str, str]:
        try:
            first, *lines = self._path.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError):
            return {}
        if first != json.dumps(self._key):
            return {}
        found = {}
        for line in lines:
            try:
                name, text = json.loads(line)
            except (ValueError, TypeError):
                continue
            found[str(name)] = str(text)
        return found

    def keep(self, names: Sequence[str], texts: Sequence[str]) -> None:
        """Keeps texts at once; the first time the file is written anew as a whole, without what was torn."""
        new = dict(zip(names, texts, strict=True))
        self.texts |= new
        if self._begun and self._path.exists():
            with self._path.open("a", encoding="utf-8") as file:
                file.writelines(_line(name, text) for name, text in new.items())
            return
        self.texts = self._read() | self.texts
        lines = [json.dumps(self._key) + "\n", *(_line(name, text) for name, text in self.texts.items())]
        write_whole(self._path, "".join(lines), shared=True)
        self._begun = True

    def done(self) -> None:
        """Drops the file: what it was for is written."""
        self._begun = False
        self._path.unlink(missing_ok=True)


def _line(name: str, text: str) -> str:
    return json.dumps([name, text]) + "\n"
