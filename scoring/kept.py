"""Translations on the way: kept line by line, so that a killed evaluation goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path


class KeptTexts:
    """Texts by name in a file, whose first line is the key of what makes them; those of another key are dropped.

    A line that a kill left half written is dropped, too.
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
        """Keeps texts at once; the file is begun anew by the first, so that it is whole."""
        new = dict(zip(names, texts, strict=True))
        self.texts |= new
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a" if self._begun else "w", encoding="utf-8") as file:
            if not self._begun:
                file.write(json.dumps(self._key) + "\n")
                new, self._begun = self.texts, True
            file.writelines(json.dumps([name, text]) + "\n" for name, text in new.items())

    def done(self) -> None:
        """Drops the file: what it was for is written."""
        self._begun = False
        self._path.unlink(missing_ok=True)
