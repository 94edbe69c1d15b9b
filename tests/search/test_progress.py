"""The bar that trials are watched by."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from search.progress import progress_on


@pytest.mark.parametrize("seconds", [0.5, 80.0, 600.0])
def test_the_time_left_is_told_where_a_step_takes_minutes(seconds: float) -> None:
    progress, now = progress_on(Console(file=io.StringIO(), force_terminal=True)), 0.0
    progress.get_time = lambda: now
    task = progress.add_task("trials", total=12, completed=2)
    for _ in range(6):
        now += seconds
        progress.update(task, advance=1)
    assert progress.tasks[0].time_remaining == pytest.approx(4 * seconds, abs=1)
