"""A search under way: its settings and what was loaded for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import optuna
from optuna.trial import FrozenTrial
from rich.console import Console

from models.loading import Source
from search.exam import Exam
from search.gates import Gate
from search.kept import KeptFidelity
from search.settings import SearchSettings
from search.workbench import Workbench
from space.bins import SizeRange
from space.limits import Limits


@dataclass(frozen=True)
class Job:
    """What is searched for inside `ranges`, several of which make a study over all sizes, the smallest first.

    `fidelity` is that of cheap scores, where it was measured for this study; trials are stopped at the `gate`.
    """

    settings: SearchSettings
    source: Source
    ranges: tuple[Limits, ...]
    study: optuna.Study
    workbench: Workbench
    exam: Exam
    console: Console
    fidelity: KeptFidelity | None
    gate: Gate
    signature: str
    shared: dict[str, Any]
    warm: list[FrozenTrial]
    started: float

    @property
    def size_range(self) -> SizeRange:
        return whole_range(self.ranges)


def whole_range(ranges: Sequence[Limits]) -> SizeRange:
    """From the least to the largest of all sizes."""
    first, last = ranges[0].size_range, ranges[-1].size_range
    return last if first is last else replace(last, name="all sizes", least_bytes=first.least_bytes)
