"""Results as tables for people: studies, sizes, scores, plans."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from space.bins import UNITS, bin_of, format_bytes

# Metrics of tables of studies, as far as there are scores; what is shown of leads.
_SHOWN = ("bleu", "chrf", "comet")
_CHOSEN_BY = {"COMET": ("COMET", "chrF2"), "chrF": ("BLEU", "chrF2")}


def print_summary(summary: dict[str, Any], console: Console) -> None:
    """Source, baseline and finalists beside each other, then where the champion lies."""
    directions = list(summary["source"]["scores"])
    scored = summary["source"]["scores"].values()
    shown = [_METRICS[metric] for metric in _SHOWN if all(metric in one for one in scored)]
    table = Table(title=f"{summary['study']}: {summary['range']}, {' / '.join(shown)} on the report role")
    for column in ("model", "bytes on disk", "parameters", *directions):
        table.add_column(column, justify="left" if column == "model" else "right")
    champion = summary["champion"]

    best = {row["trial"] for row in ([champion] if champion else summary.get("front", []))}
    mark = "champion" if champion else "on the front"

    def name(row: dict[str, Any], words: str) -> str:
        return f"{words} ({mark})" if row["trial"] in best else words

    source = summary["source"]
    _add(table, "uncompressed", source["bytes"], source["parameters"], source["scores"])
    for row in summary["baselines"]:
        _add(table, name(row, f"baseline: {row['name']}"), row["bytes_on_disk"], row["parameters"], row["scores"])
    if not summary["baselines"] and "front" not in summary:
        table.add_row("baseline: none tried", "", "", *[""] * len(directions))
    for row in summary["finalists"]:
        words = f"{row['range']}, trial {row['trial']}" if "range" in row else f"trial {row['trial']}"
        words += ", the allocator's plan" if row.get("allocated") else ""
        _add(table, name(row, words), row["bytes_on_disk"], row["parameters"], row["scores"])
    console.print(table)
    leads = [
        {**row, "over": f"trial {row['over']}", "leads": {name: row["leads"][name] for name in _CHOSEN_BY[by]}}
        for by in [summary["chosen_by"]]
        for row in summary.get("leads", [])
        if all(name in row["leads"] for name in _CHOSEN_BY[by])
    ]
    _print_leads(leads, console, "the champion's leads")
    how = "" if summary["segments"] == "gold" else "; whole talks, re-segmented"
    console.print(
        f"chosen by {summary['chosen_by']} on the select role{how}; data {escape(summary['data'])}, "
        f"{summary['condition']} condition",
        soft_wrap=True,
    )
    trials = summary["trials"]
    console.print(
        f"trials: {trials['complete']} complete, {trials['pruned']} stopped early, {trials['failed']} failed, "
        f"{summary['out_of_bin_trials']} outside of the range; {summary['seconds'] / 60:.1f} minutes"
    )
    if fidelity := summary["fidelity"]:
        ranks = [f"{proxy} {_rank(every)} ({_rank(best)})" for proxy, (every, best) in fidelity["spearman"].items()]
        console.print(
            f"fidelity over {fidelity['plans']} plans, Spearman with healed chrF on select (among the best quarter): "
            + "; ".join(ranks),
            soft_wrap=True,
        )
    for row in summary.get("front", []):
        console.print(f"{row['range']}: {row['path']}", soft_wrap=True)
    if not champion:
        return
    console.print(f"champion: {champion['path']}", soft_wrap=True)
    other = UNITS[summary["units"]].other
    there = bin_of(champion["bytes_on_disk"], source["bytes"], other)
    if summary["bin"] not in (None, there):
        console.print(f"counted in {other} units the champion is in {_bin(there)}")


def _add(table: Table, name: str, size_bytes: int, parameters: int, scores: dict[str, Any]) -> None:
    cells = [" / ".join(f"{one[metric]:.1f}" for metric in _SHOWN if metric in one) for one in scores.values()]
    table.add_row(name, f"{size_bytes:,}", f"{parameters:,}", *cells)


def _rank(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def print_size(size: dict[str, Any], console: Console) -> None:
    """Bytes by part, largest first, and the bin."""
    units = UNITS[size["units"]]
    table = Table(title=f"{size['path']}: {size['bytes']:,} bytes ({format_bytes(size['bytes'], units)})")
    for column in ("part", "bytes", "share"):
        table.add_column(column, justify="left" if column == "part" else "right")
    for part, part_bytes in sorted(size["parts"].items(), key=lambda item: -item[1]):
        table.add_row(part, f"{part_bytes:,}", f"{part_bytes / size['bytes']:.1%}")
    console.print(table)
    console.print(f"{_bin(size['bin'])} (bounds scaled to a source of {format_bytes(size['source_bytes'], units)})")
    if "bin_in_other_units" in size:
        console.print(
            f"counted in {units.other} units: {_bin(size['bin_in_other_units'])}. The task page "
            "does not say which it means; decimal bounds are the lower ones"
        )


def _bin(number: int | None) -> str:
    return f"bin {number}" if number else "larger than every bin"


def print_plans(plans: dict[str, Any], console: Console) -> None:
    """For each range what fits, the allocator's plan, where its bytes go, and what the range makes necessary."""
    units = UNITS[plans["units"]]

    def size(count: int) -> str:
        return format_bytes(count, units)

    remark = f" ({plans['remark']})" if plans["remark"] else ""
    console.print(
        f"[bold]{escape(plans['model'])}[/]: {plans['parameters']:,} parameters, {plans['tensor_bytes']:,} bytes"
        f"{escape(remark)}"
    )
    possible = [one for one in plans["ranges"] if "plan" in one]
    table = Table(title="the plan the allocator gives on prior values")
    for column in ("", *(one["range"] for one in possible)):
        table.add_column(column, justify="right" if column else "left")
    for name, cell in _plan_rows(possible, size):
        table.add_row(name, *(cell(one) for one in possible))
    console.print(table)
    for one in plans["ranges"]:
        if "impossible" in one:
            console.print(escape(one["impossible"]), soft_wrap=True)
        for need in one.get("necessary", ()):
            console.print(f"{one['range']}: {need['what'].format(least=size(need['bytes']))}", soft_wrap=True)
        if "plan" in one:
            for key, number in one["plan"].items():
                if key.startswith("bin_in_"):
                    console.print(f"{one['range']}: in {key.split('_')[2]} units the plan is in {_bin(number)}")


_Cell = Callable[[dict[str, Any]], str]


def _plan_rows(ranges: Sequence[dict[str, Any]], size: Callable[[int], str]) -> list[tuple[str, _Cell]]:
    """Names and cells of the rows of the table of plans."""

    def uniform(one: dict[str, Any]) -> str:
        fitting = [rate["rate"] for rate in one["uniform"] if rate["under_bound"]]
        return fitting[-1] if fitting else "none"

    def tower(name: str, what: str) -> _Cell:
        def cell(one: dict[str, Any]) -> str:
            kept = one["plan"]["towers"][name]
            if what == "layers":
                return f"{kept['layers']} / {kept['layers_of']}"
            return f"{kept[what] / kept[f'{what}_of']:.0%}"

        return cell

    def part(names: Sequence[str]) -> _Cell:
        return lambda one: f"{sum(one['plan']['parts'].get(name, 0) for name in names) / one['plan']['bytes']:.1%}"

    def left(one: dict[str, Any]) -> str:
        return size(one["bound_bytes"] - one["plan"]["bytes"])

    first = ranges[0]["plan"]
    rows: list[tuple[str, _Cell]] = [
        ("bound, not reached", lambda one: size(one["bound_bytes"])),
        ("smallest plan", lambda one: size(one["smallest_plan_bytes"])),
        ("largest plan", lambda one: size(one["largest_plan_bytes"])),
        ("uniform rate that fits", uniform),
        ("plan", lambda one: size(one["plan"]["bytes"])),
        ("left under the bound", left),
        ("parameters", lambda one: f"{one['plan']['parameters'] / 1e6:,.1f} M"),
        ("mean bits", lambda one: f"{one['plan']['mean_bits']:.2f}"),
        ("tokens", lambda one: f"{one['plan']['vocabulary']:,}"),
    ]
    for table in first["rates"]:
        rows.append((f"rate of {table}", lambda one, table=table: one["plan"]["rates"][table]))  # type: ignore[misc]
    for name in first["towers"]:
        rows += [(f"{name} layers", tower(name, "layers")), (f"{name} heads", tower(name, "heads"))]
        rows.append((f"{name} channels", tower(name, "channels")))
    named = [name for names in _PARTS.values() for name in names]
    parts = {**_PARTS, "rest": tuple(name for name in first["parts"] if name not in named)}
    rows += [(f"bytes: {name}", part(names)) for name, names in parts.items() if set(names) & set(first["parts"])]
    rows.append(("from the best, at most", lambda one: f"{one['plan']['gap']:.3%}"))
    return rows


# Parts of the model as people ask for them.
_PARTS = {
    "encoder": ("encoder attention", "encoder ffn", "convolutions"),
    "decoder attention": ("decoder attention",),
    "decoder FFN": ("decoder ffn",),
    "embedding": ("embedding",),
    "lm_head": ("lm_head",),
}


def print_evaluation(evaluation: dict[str, Any], console: Console) -> None:
    """Scores by direction, with the signatures they were made under; of several systems leads, too."""
    systems = evaluation.get("systems", [evaluation])
    for one in systems:
        _print_scores(one, console)
    _print_leads(evaluation.get("leads", []), console, f"leads of {systems[0]['path']}")


_METRICS = {"bleu": "BLEU", "chrf": "chrF", "chrf++": "chrF++", "comet": "COMET"}


def _print_scores(evaluation: dict[str, Any], console: Console) -> None:
    found = list(evaluation["scores"].values())
    metrics = [metric for metric in _METRICS if all(metric in scores for scores in found)]
    table = Table(title=f"{escape(evaluation['path'])}: {evaluation['bytes']:,} bytes, {evaluation['role']} role")
    for column in ("direction", *(_METRICS[metric] for metric in metrics)):
        table.add_column(column, justify="left" if column == "direction" else "right")
    for direction, scores in evaluation["scores"].items():
        table.add_row(direction, *(f"{scores[metric]:.2f}" for metric in metrics))
    console.print(table)
    for name, figure in evaluation.get("figures", {}).items():
        console.print(f"{name}: {figure['value']:,} ({escape(figure['method'])})", soft_wrap=True, highlight=False)
    for direction, scores in evaluation["scores"].items():
        for signature in scores["signatures"]:
            console.print(f"{direction} {signature}", soft_wrap=True, highlight=False)


def _print_leads(leads: Sequence[dict[str, Any]], console: Console, title: str) -> None:
    """A line for each other system, direction and metric, with interval and both p-values."""
    if not leads:
        return
    table = Table(title=escape(title))
    for column in ("over", "direction", "metric", "lead (95 %)", "p, bootstrap", "p, randomisation"):
        table.add_column(column, justify="left" if column in ("over", "direction", "metric") else "right")
    for row in leads:
        for metric, found in row["leads"].items():
            lead = f"{found['value']:+.2f} ({found['low']:.2f} to {found['high']:.2f})"
            cells = (f"{found['p']:.3f}", f"{found['p_randomised']:.3f}")
            table.add_row(escape(str(row["over"])), row["direction"], metric, lead, *cells)
    console.print(table)


def print_submission(submission: dict[str, Any], console: Console) -> None:
    """What is in the archive, where it is, and the message."""
    table = Table(title=f"{escape(submission['archive'])}: {submission['bytes']:,} bytes")
    table.add_column("file", overflow="fold")  # a name that is cut tells primary and contrastives not apart
    for column in ("lines", "bytes"):
        table.add_column(column, justify="right")
    for one in submission["files"]:
        table.add_row(escape(one["name"]), f"{one['lines']:,}", f"{one['bytes']:,}")
    console.print(table)
    console.print(f"sha256 {submission['sha256']}", soft_wrap=True, highlight=False)
    console.print(f"{escape(submission['message'])}:", soft_wrap=True, highlight=False)
    console.print(escape(submission["text"]), soft_wrap=True, highlight=False)


def print_export(export: dict[str, Any], console: Console) -> None:
    """Where a checkpoint was written for other runtimes, its bytes, and what loading it asks for."""
    console.print(
        f"{escape(export['path'])}: {export['form']}, {export['bytes']:,} bytes; {escape(export['remark'])}",
        soft_wrap=True,
        highlight=False,
    )


def print_bank(bank: dict[str, Any], console: Console) -> None:
    """How many pieces were made and sensitivities are there, and what the bank of this source and data takes."""
    console.print(
        f"{escape(bank['folder'])}: {bank['options']:,} options, {bank['made']:,} pieces made in "
        f"{bank['seconds']:.0f} s, {bank['sensitivities']:,} sensitivities; "
        f"{bank['bytes']:,} of at most {bank['most_bytes']:,} bytes",
        soft_wrap=True,
        highlight=False,
    )


def print_adaptation(adaptation: dict[str, Any], console: Console) -> None:
    """The loss on the select role before and after, and what to do with the folder."""
    loss, rank = adaptation["select_loss"], f" of rank {adaptation['rank']}" if adaptation["rank"] else ""
    best = f"best after step {adaptation['best_step']}" if adaptation["best_step"] else "nothing helped: unchanged"
    console.print(
        f"{adaptation['method']}{rank}, {adaptation['steps']} steps on {adaptation['role']} "
        f"({', '.join(adaptation['langs'])}), loss on select {loss['before']:.4f} before, {loss['after']:.4f} after "
        f"({best})",
        soft_wrap=True,
    )
    path = escape(adaptation["path"])
    console.print(f"adapted model: {path}; search it with --model {path}", soft_wrap=True)


def print_streaming(streaming: dict[str, Any], console: Console) -> None:
    """What was written, how it was measured, and the memory it took."""
    path = escape(streaming["path"])
    console.print(
        f"{path}: {streaming['bytes']:,} bytes of {streaming['predicted_bytes']:,} predicted, "
        f"{streaming['parameters']:,} parameters; the source has {streaming['source_bytes']:,} bytes",
        soft_wrap=True,
    )
    console.print(
        f"measured on {streaming['utterances']} utterances of {streaming['role']} ({', '.join(streaming['langs'])}), "
        f"{streaming['units']} units in {streaming['seconds']:.1f} s"
        + (f", {streaming['units_resumed']} of them done before" if streaming["units_resumed"] else ""),
        soft_wrap=True,
    )
    if streaming["heal_steps_left_out"]:
        console.print(f"unhealed: the plan's {streaming['heal_steps_left_out']} heal steps were left out")
    console.print(
        f"peak memory {format_bytes(streaming['peak_bytes'])}, promised under {format_bytes(streaming['bound_bytes'])}",
        soft_wrap=True,
    )
    console.print(f"score it: python launch.py evaluate {path}", soft_wrap=True)


def print_fidelity(found: dict[str, Any], console: Console) -> None:
    """A table for each full evaluation: rank correlations of every proxy, intervals behind Spearman's."""
    rows = {(row["full"], row["proxy"], row["group"]): row for row in found["table"]}
    for full in dict.fromkeys(full for full, _, _ in rows):
        table = Table(title=f"{found['study']}: {found['range']}, plans {full}, ranks of chrF on select")
        table.add_column("proxy", no_wrap=True)
        table.add_column("s", justify="right")
        groups = {group: row["plans"] for (_, _, group), row in rows.items()}
        for group, count in groups.items():
            table.add_column(f"{group}, {count}: Spearman", justify="right", min_width=17)
            table.add_column("tau", justify="right")
        for proxy in dict.fromkeys(proxy for _, proxy, _ in rows):
            ranks = [rows[full, proxy, group] for group in groups]
            cells = [cell for row in ranks for cell in _correlations(row)]
            table.add_row(proxy, f"{ranks[0]['seconds']:.2f}", *cells)
        console.print(table)
    console.print(
        "1: in the order of the full evaluation; behind a proxy's name its utterances, in brackets 95 % bootstrap "
        "intervals; tau is Kendall's, seconds are medians; the last line is what other utterances can say at best"
    )
    gate = found["gate"]
    shares = ", ".join(f"{share:.2g}" for share in gate["survival"])
    console.print(
        f"a study that begins now has rungs of {' and '.join(map(str, gate['utterances']))} utterances; by "
        f"{gate['proxy']} {shares} of the trials go on, {gate['seconds']:.1f} s a trial",
        soft_wrap=True,
    )


def _correlations(row: dict[str, Any]) -> tuple[str, str]:
    """Where nothing can be said, since all plans have one score, a dash."""
    spearman, kendall = row["spearman"], row["kendall"]["value"]
    if spearman["value"] is None or kendall is None:
        return "-", "-"
    return f"{spearman['value']:.2f} ({spearman['low']:.2f}, {spearman['high']:.2f})", f"{kendall:.2f}"


def print_studies(found: dict[str, Any], console: Console) -> None:
    """A row for each study; of one that cannot be read the reason."""
    if not found["studies"]:
        console.print(f"no studies in {found['root']}", markup=False)
        return
    table = Table(title=escape(f"studies in {found['root']}"))
    for column in ("study", "range", "state", "ended / complete / asked", "best chrF", "changed"):
        table.add_column(column, justify="right" if column in ("ended / complete / asked", "best chrF") else "left")
    for row in found["studies"]:
        counts = " / ".join(_known(row.get(key)) for key in ("ended", "complete", "asked"))
        changed = row["changed"][:16].replace("T", " ") if "changed" in row else "-"
        cells = (row["study"], _known(row.get("range")), _state(row), counts, _known(row.get("best_chrf")), changed)
        table.add_row(*map(escape, cells))
    console.print(table)


def _known(value: object) -> str:
    return "-" if value is None else str(value)


def _state(row: dict[str, Any]) -> str:
    """Who is at it, what it came to, why it cannot be read."""
    words = []
    if row.get("driver"):
        words.append(f"under way: {row['driver']}")
    if row.get("champion") is not None:
        words.append(f"champion: trial {row['champion']}")
    elif row.get("front"):
        words.append(f"front: trials {', '.join(map(str, row['front']))}")
    if "reason" in row:
        words.append(row["reason"])
    return "; ".join(words) or "stopped before its finalists"
