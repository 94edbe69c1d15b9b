"""The bar that long work is watched by."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

# The time left is estimated from the steps of the last hour; rich's own half a minute is less than many a trial takes.
_PERIOD_SECONDS = 3600.0


def progress_on(console: Console) -> Progress:
    """What is under way, how much of it is done and the time left; nothing where nobody watches."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(
        *columns,
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        speed_estimate_period=_PERIOD_SECONDS,
    )
