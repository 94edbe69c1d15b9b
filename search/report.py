"""What a finished study tells a person: the closing table."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from space.bins import format_bytes


def print_summary(summary: dict[str, Any], console: Console) -> None:
    """Source, baseline and finalists beside each other, then where the champion lies."""
    directions = list(summary["source"]["scores"])
    table = Table(title=f"{summary['study']}: {summary['range']}, BLEU / chrF on the report role")
    for column in ("model", "bytes on disk", "parameters", *directions):
        table.add_column(column, justify="left" if column == "model" else "right")
    source = summary["source"]
    _add(table, "uncompressed", source["bytes"], source["parameters"], source["scores"])
    for row in summary["baselines"]:
        _add(table, f"baseline: {row['name']}", row["bytes_on_disk"], row["parameters"], row["scores"])
    if not summary["baselines"]:
        table.add_row("baseline: none fits", "", "", *[""] * len(directions))
    champion = summary["champion"]
    for row in summary["finalists"]:
        mark = " (champion)" if row["trial"] == champion["trial"] else ""
        _add(table, f"trial {row['trial']}{mark}", row["bytes_on_disk"], row["parameters"], row["scores"])
    console.print(table)
    trials = summary["trials"]
    console.print(
        f"trials: {trials['complete']} complete, {trials['pruned']} stopped early, {trials['failed']} failed, "
        f"{summary['out_of_bin_trials']} outside of the range; {summary['seconds'] / 60:.1f} minutes"
    )
    if champion:
        console.print(f"champion: {champion['path']}", soft_wrap=True)


def _add(table: Table, name: str, size_bytes: int, parameters: int, scores: dict[str, Any]) -> None:
    cells = [f"{direction['bleu']:.1f} / {direction['chrf']:.1f}" for direction in scores.values()]
    table.add_row(name, f"{size_bytes:,} ({format_bytes(size_bytes)})", f"{parameters:,}", *cells)


def print_size(size: dict[str, Any], console: Console) -> None:
    """Bytes by part, largest first, and the bin."""
    table = Table(title=f"{size['path']}: {size['bytes']:,} bytes ({format_bytes(size['bytes'])})")
    for column in ("part", "bytes", "share"):
        table.add_column(column, justify="left" if column == "part" else "right")
    for part, part_bytes in sorted(size["parts"].items(), key=lambda item: -item[1]):
        table.add_row(part, f"{part_bytes:,}", f"{part_bytes / size['bytes']:.1%}")
    console.print(table)
    where = f"bin {size['bin']}" if size["bin"] else "larger than every bin"
    console.print(f"{where} (bounds scaled to a source of {format_bytes(size['source_bytes'])})")


def print_evaluation(evaluation: dict[str, Any], console: Console) -> None:
    """Scores by direction, with the signatures they were made under."""
    table = Table(title=f"{evaluation['path']}: {evaluation['bytes']:,} bytes, {evaluation['role']} role")
    for column in ("direction", "BLEU", "chrF"):
        table.add_column(column, justify="left" if column == "direction" else "right")
    for direction, scores in evaluation["scores"].items():
        table.add_row(direction, f"{scores['bleu']:.2f}", f"{scores['chrf']:.2f}")
    console.print(table)
    for direction, scores in evaluation["scores"].items():
        for signature in scores["signatures"]:
            console.print(f"{direction} {signature}", soft_wrap=True, highlight=False)
