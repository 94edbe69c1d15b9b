"""A search under way: its settings and what was loaded for it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import optuna
from optuna.trial import FrozenTrial
from rich.console import Console

from models.loading import Source
from search.fidelity import kept_fidelity
from search.finalists import Exam
from search.settings import SearchSettings
from search.workbench import Workbench
from space.bins import SizeRange
from space.limits import Limits


@dataclass(frozen=True)
class Job:
    """What is searched for inside `ranges`, several of which make a study over all sizes, the smallest first."""

    settings: SearchSettings
    source: Source
    ranges: tuple[Limits, ...]
    study: optuna.Study
    workbench: Workbench
    exam: Exam
    console: Console
    signature: str
    shared: dict[str, Any]
    warm: list[FrozenTrial]
    started: float

    @property
    def size_range(self) -> SizeRange:
        """From the least to the largest of all sizes."""
        first, last = self.ranges[0].size_range, self.ranges[-1].size_range
        return last if first is last else replace(last, name="all sizes", least_bytes=first.least_bytes)

    def fidelity(self) -> dict[str, Any] | None:
        """Of the scores that the rungs go by, where it was measured."""
        return kept_fidelity(self.settings.folder, self.size_range.name, self.shared)
