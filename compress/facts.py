"""The bank's folder: what was measured of a source once, in files that later runs map into memory.

Moments of inputs, removal orders, the source's translations, predictions and states, and the shelf of pieces.
The folder's name says what it was made from. Every file appears whole; a damaged one is made again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from compress.gptq import Hessian
from compress.heal import Lesson
from compress.importance import Behind, Measured
from compress.predictions import Predictions, joined
from compress.shelf import Shelf
from compress.tensors import save_tensors
from models.inputs import Row
from space.files import whole_file, write_whole

_MEASURED = "measured.safetensors"
_LESSONS = "lessons-{}.safetensors"
# What of a folder was measured of the source, as patterns of names.
FACTS = (_MEASURED, _LESSONS.format("*"))

_Found = TypeVar("_Found")


@dataclass(frozen=True)
class Facts:
    """What was measured of a source, and the orders in which heads and channels of its sublayers go."""

    measured: Measured
    orders: Mapping[str, Tensor]


@dataclass(frozen=True)
class BankFolder:
    """A folder of facts with its shelf; without a path nothing is kept beyond the process."""

    path: Path | None
    shelf: Shelf

    def facts(self, make: Callable[[], Facts]) -> Facts:
        """The facts of the source, measured where they are not there."""
        if self.path is None:
            return make()
        path = self.path / _MEASURED
        found = _unless_damaged(lambda: _read_facts(path))
        if found is None:
            found = make()
            _write_facts(path, found)
        return found

    def lessons(self, role: str, rows: Sequence[Row], make: Callable[[], list[Lesson]]) -> list[Lesson]:
        """What the source makes of a role's rows, computed where it is not there."""
        if self.path is None or not rows:
            return make()
        path = self.path / _LESSONS.format(role)
        found = _unless_damaged(lambda: _read_lessons(path, rows))
        if found is None:
            found = make()
            _write_lessons(path, found)
        return found

    def texts(self, name: str, make: Callable[[], dict[str, list[str]]]) -> dict[str, list[str]]:
        """Texts by language, the source's translations for instance, made where they are not there."""
        found: dict[str, list[str]] | None = self.read_json(name)
        if found is None:
            found = make()
            self.write_json(name, found)
        return found

    def read_json(self, name: str) -> Any:
        """What was written under a name; None where nothing was, or it is damaged."""
        if self.path is None:
            return None
        try:
            return json.loads((self.path / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def write_json(self, name: str, found: Any) -> None:
        if self.path is None:
            return
        write_whole(self.path / f"{name}.json", json.dumps(found, ensure_ascii=False), shared=True)

    def read_tensors(self, name: str) -> tuple[dict[str, Tensor], Any] | None:
        """Tensors that were written under a name and what was said of them; None as `read_json`."""
        return None if self.path is None else _read(self.path / f"{name}.safetensors")

    def write_tensors(self, name: str, tensors: Mapping[str, Tensor], about: Any) -> None:
        if self.path is not None:
            _write(self.path / f"{name}.safetensors", tensors, about)


def _unless_damaged(read: Callable[[], _Found | None]) -> _Found | None:
    """None, too, of a file that can be read and does not hold what one of its name does."""
    try:
        return read()
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError):
        return None


def _write_facts(path: Path, facts: Facts) -> None:
    tensors, shared = {}, {}
    for name, hessians in facts.measured.hessians.items():
        distinct = list(dict.fromkeys(hessians))
        shared[name] = [distinct.index(one) for one in hessians]
        for i, one in enumerate(distinct):
            tensors[f"hessian {i} of {name}"] = one.moments
            if one.mean is not None:
                tensors[f"mean {i} of {name}"] = one.mean
    for name, behind in facts.measured.behind.items():
        tensors |= {f"behind {name}": behind.moments, f"mean behind {name}": behind.means}
    tensors |= {f"order of {name}": order for name, order in facts.orders.items()}
    about = {"shared": shared, "findings": facts.measured.findings, "behind": list(facts.measured.behind)}
    _write(path, tensors, about | {"orders": list(facts.orders)})


def _read_facts(path: Path) -> Facts | None:
    read = _read(path)
    if read is None:
        return None
    tensors, about = read
    hessians = {}
    for name, indices in about["shared"].items():
        distinct = [
            Hessian(tensors[f"hessian {i} of {name}"], tensors.get(f"mean {i} of {name}"))
            for i in range(max(indices, default=-1) + 1)
        ]
        # matrices with one input share one object, and so one factor
        hessians[name] = tuple(distinct[i] for i in indices)
    behind = {name: Behind(tensors[f"behind {name}"], tensors[f"mean behind {name}"]) for name in about["behind"]}
    orders = {name: tensors[f"order of {name}"] for name in about["orders"]}
    return Facts(Measured(hessians, behind, tuple(about["findings"])), orders)


def _write_lessons(path: Path, lessons: Sequence[Lesson]) -> None:
    heard = {id(x.row.speech): x.audio for x in lessons if x.audio is not None}
    teacher = joined([x.teacher for x in lessons])
    tensors = {"teacher": teacher.logs}
    if teacher.ids is not None and teacher.rest is not None:
        tensors |= {"teacher ids": teacher.ids, "teacher rest": teacher.rest}
    if heard:
        tensors["audio"] = torch.cat(list(heard.values()))
    hidden = [x.hidden for x in lessons if x.hidden is not None]
    assert len(hidden) == len(lessons), "lessons in the source's own vocabulary have states"
    _write(path, tensors | {"hidden": torch.cat(hidden)}, {"tokens": [x.source_tokens for x in lessons]})


def _read_lessons(path: Path, rows: Sequence[Row]) -> list[Lesson] | None:
    read = _read(path)
    if read is None or read[1]["tokens"] != [len(row.target) for row in rows]:
        return None
    tensors, about = read
    speeches = {id(row.speech): row.speech for row in rows if row.speech is not None}
    heard: dict[int, Tensor] = {}
    if speeches:
        lengths = [speech.audio_tokens for speech in speeches.values()]
        heard = dict(zip(speeches, torch.split(tensors["audio"], lengths), strict=True))
    teacher = Predictions(tensors["teacher"], tensors.get("teacher ids"), tensors.get("teacher rest"))
    parts = teacher.split(about["tokens"]), torch.split(tensors["hidden"], about["tokens"])
    return [
        Lesson(row, predicted, len(row.target), hidden, heard.get(id(row.speech)))
        for row, predicted, hidden in zip(rows, *parts, strict=True)
    ]


def _write(path: Path, tensors: Mapping[str, Tensor], about: Any) -> None:
    whole = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    with whole_file(path, shared=True) as temporary:
        save_tensors(whole, temporary, {"about": json.dumps(about)})


def _read(path: Path) -> tuple[dict[str, Tensor], Any] | None:
    """Tensors and what else is said of a file; None where there is none that can be read."""
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()["about"])
            return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118
    except (OSError, SafetensorError, TypeError, KeyError, ValueError):
        return None
