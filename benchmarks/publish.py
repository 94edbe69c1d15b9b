"""How every benchmark tells its figures: a table for people, a JSON file with targets for programs."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"
# What single runs found of which many seeds are published together.
RUNS = Path(__file__).parent / "runs"


def target(name: str, value: float, limit: float, *, at_least: bool) -> dict[str, Any]:
    """One target: `value` must be at least, or at most, `limit`."""
    met = value >= limit if at_least else value <= limit
    return {"name": name, "value": value, "target": f"{'>=' if at_least else '<='} {limit}", "met": met}


def publish_bins(
    name: str, rows: Sequence[dict[str, Any]], targets: Sequence[dict[str, Any]], by: Sequence[str] = ("bin",)
) -> None:
    """Publishes results of some bins beside what is there of the others, in the order of bins.

    Rows have a `bin`, and take the place of those that are alike in what they are told apart `by`; the names of targets
    begin with their bin. Where bins are replaced as a whole so are their targets, else those of the same name.
    """
    _publish_groups("bin", name, rows, targets, by)


def publish_seeds(name: str, rows: Sequence[dict[str, Any]], targets: Sequence[dict[str, Any]]) -> None:
    """Publishes results of some seeds beside what is there of the others, in the order of seeds.

    Rows have a `seed`, whose earlier rows and targets they replace; the names of targets begin with their seed.
    """
    _publish_groups("seed", name, rows, targets, ("seed",))


def _publish_groups(
    group: str, name: str, rows: Sequence[dict[str, Any]], targets: Sequence[dict[str, Any]], by: Sequence[str]
) -> None:
    """`publish_bins` for whatever results are grouped by."""
    named = {one["name"] for one in targets}
    whole = {row[group] for row in rows} if tuple(by) == (group,) else set()
    kept = (one for one in _earlier(name)["targets"] if _number(group, one) not in whole and one["name"] not in named)
    rows = _with_earlier(name, rows, by)
    publish(
        name,
        sorted(rows, key=lambda row: int(row[group])),
        sorted([*targets, *kept], key=lambda one: _number(group, one)),
    )


def in_order(name: str, rows: Sequence[dict[str, Any]], by: Sequence[str]) -> list[dict[str, Any]]:
    """Rows among those published before, in the order of what they are told apart `by`."""
    return sorted(_with_earlier(name, rows, by), key=lambda row: tuple(row[key] for key in by))


def _with_earlier(name: str, rows: Sequence[dict[str, Any]], by: Sequence[str]) -> list[dict[str, Any]]:
    """Rows, and behind them what was published before but for those alike in what they are told apart `by`."""
    now = {tuple(row[key] for key in by) for row in rows}
    return [*rows, *(row for row in _earlier(name)["rows"] if tuple(row[key] for key in by) not in now)]


def _earlier(name: str) -> dict[str, list[dict[str, Any]]]:
    path = RESULTS / f"{name}.json"
    found: dict[str, list[dict[str, Any]]] = {"rows": [], "targets": []}
    return json.loads(path.read_text()) if path.exists() else found  # type: ignore[no-any-return]


def _number(group: str, target: dict[str, Any]) -> int:
    found = re.match(rf"{group} (\d+)\b", target["name"])
    assert found, target["name"]
    return int(found[1])


def publish(name: str, rows: Sequence[dict[str, Any]], targets: Sequence[dict[str, Any]]) -> None:
    """Prints rows and targets, and writes both to benchmarks/results/NAME.json."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    table = Table(*columns, title=name)
    for row in rows:
        cells = [row.get(column, "") for column in columns]
        table.add_row(*(f"{value:.2f}" if isinstance(value, float) else str(value) for value in cells))
    console = Console()
    console.print(table)
    for one in targets:
        console.print(f"{'met' if one['met'] else 'MISSED'}: {one['name']} {one['value']:.4g} ({one['target']})")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps({"rows": rows, "targets": targets}, indent=1) + "\n")
