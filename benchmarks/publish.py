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


def target(name: str, value: float, limit: float, *, at_least: bool) -> dict[str, Any]:
    """One target: `value` must be at least, or at most, `limit`."""
    met = value >= limit if at_least else value <= limit
    return {"name": name, "value": value, "target": f"{'>=' if at_least else '<='} {limit}", "met": met}


def publish_bins(name: str, rows: Sequence[dict[str, Any]], targets: Sequence[dict[str, Any]]) -> None:
    """Publishes results of some bins, beside what is there of the others, in the order of bins.

    Rows have a `bin`; the names of targets begin with theirs.
    """
    path, now = RESULTS / f"{name}.json", {row["bin"] for row in rows}
    before = json.loads(path.read_text()) if path.exists() else {"rows": [], "targets": []}
    rows = [*rows, *(row for row in before["rows"] if row["bin"] not in now)]
    targets = [*targets, *(one for one in before["targets"] if _bin_of(one) not in now)]
    publish(name, sorted(rows, key=lambda row: int(row["bin"])), sorted(targets, key=_bin_of))


def _bin_of(target: dict[str, Any]) -> int:
    found = re.match(r"bin (\d+)\b", target["name"])
    assert found, target["name"]
    return int(found[1])


def publish(name: str, rows: Sequence[dict[str, Any]], targets: Sequence[dict[str, Any]]) -> None:
    """Prints rows (of equal keys) and targets, and writes both to benchmarks/results/NAME.json."""
    table = Table(*rows[0], title=name)
    for row in rows:
        table.add_row(*(f"{value:.2f}" if isinstance(value, float) else str(value) for value in row.values()))
    console = Console()
    console.print(table)
    for one in targets:
        console.print(f"{'met' if one['met'] else 'MISSED'}: {one['name']} {one['value']:.4g} ({one['target']})")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps({"rows": rows, "targets": targets}, indent=1) + "\n")
