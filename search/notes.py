"""What a study and its trials say of themselves, in Markdown, as optuna-dashboard shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.baselines import START_KINDS
from search.gates import Gate
from search.loop import FAILURE
from search.rungs import BYTES, DIVERGENCES, HEALED, SECONDS
from search.steps import STEP_FROM
from space.bins import SizeRange, format_bytes
from space.layout import Layout
from space.limits import Limits
from space.outlook import Kept, kept, mean_bits
from space.plan import Plan
from space.size import plan_parameters

# An attribute of a study has room for so many characters in every database; a longer note is several.
_PART = 2045


def write_note(study: optuna.Study, trial_id: int | None, body: str, *, first: bool = False) -> None:
    """Sets the note of a trial, which may have ended, or of the study; whether it is the `first` the caller knows.

    As `optuna_dashboard.save_note`, which wants a `Trial` and reads the notes of all others each time.
    """
    storage, study_id, of = study._storage, study._study_id, _prefix(trial_id)
    known = {} if first else storage.get_study_system_attrs(study_id)
    parts = [body[start : start + _PART] for start in range(0, len(body), _PART)]
    # one that gets shorter would leave parts behind
    parts += [""] * (sum(key.startswith(f"{of}note_str:") for key in known) - len(parts))
    for place, part in enumerate(parts):
        storage.set_study_system_attr(study_id, f"{of}note_str:{place}", part)
    storage.set_study_system_attr(study_id, f"{of}note_ver", known.get(f"{of}note_ver", 0) + 1)


def noted_trials(study: optuna.Study) -> set[int]:
    """The ids of the trials that have a note."""
    names = [key.split(":") for key in study._storage.get_study_system_attrs(study._study_id)]
    return {int(name[1]) for name in names if len(name) == 3 and name[::2] == ["dashboard", "note_ver"]}


def _prefix(trial_id: int | None) -> str:
    return "dashboard:" if trial_id is None else f"dashboard:{trial_id}:"


def trial_note(trial: FrozenTrial, plan: Plan | None, limits: Limits | None, *, sampler: str, gate: Gate) -> str:
    """Of a trial that has ended: what became of it, and what its plan keeps; of a failed one there may be no plan.

    `gate` is what it could be stopped by.
    """
    rows = {"made by": _origin(trial, sampler)}
    if plan is not None and limits is not None:
        size, bound = trial.user_attrs[BYTES], limits.size_range.bound_bytes
        rows["bytes"] = f"{size:,}, {bound - size:,} under the bound of {limits.size_range.name}"
        rows |= _described(limits.layout, plan)
        rows["healing"] = _healing(plan) if trial.state == TrialState.COMPLETE else "none: it was stopped before"
    scores = trial.user_attrs.get(DIVERGENCES, [])
    if scores:
        heard = zip(scores, gate.utterances, strict=False)
        rows[gate.proxy] = ", ".join(f"{_number(value)} on {utterances} utterances" for value, utterances in heard)
    if trial.state == TrialState.COMPLETE:
        rows["chrF"] = f"{100 - trial.values[0]:.2f} on {gate.utterances[-1]} utterances after healing"
        if trial.user_attrs.get(HEALED) is not None:
            rows["divergence after healing"] = _number(trial.user_attrs[HEALED])
    if SECONDS in trial.user_attrs:
        rows["seconds"] = ", ".join(f"{seconds:.1f}" for seconds in trial.user_attrs[SECONDS])
    lines = [f"**{_outcome(trial, scores, gate)}**", "", "| | |", "|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {_cell(words)} |" for name, words in rows.items())])


def _origin(trial: FrozenTrial, sampler: str) -> str:
    for kind in START_KINDS:
        if kind in trial.user_attrs:
            return f"{kind}: {trial.user_attrs[kind]}"
    if STEP_FROM in trial.user_attrs:
        return f"sampler {sampler}, a step from trial {trial.user_attrs[STEP_FROM]}"
    return f"sampler {sampler}"


def _outcome(trial: FrozenTrial, scores: Sequence[float], gate: Gate) -> str:
    if trial.state == TrialState.COMPLETE:
        return f"Complete: chrF {100 - trial.values[0]:.1f} in {trial.user_attrs[BYTES]:,} bytes"
    if trial.state == TrialState.PRUNED and scores:
        rung = len(scores) - 1
        return (
            f"Stopped after {gate.utterances[rung]} utterances: by its {gate.proxy}, bytes and removed sublayers not "
            "among the best of the last there"
        )
    return f"Failed: {trial.user_attrs.get(FAILURE, 'no reason is known')}"


def _described(layout: Layout, plan: Plan) -> dict[str, str]:
    """What of the model stays, and at how many bits."""
    return {
        **{name: _tower(found) for name, found in kept(layout, plan).items()},
        "tokens": f"{plan.vocabulary:,} of {layout.vocabulary:,}",
        "parameters": f"{plan_parameters(layout, plan):,} of {layout.parameters:,}",
        "mean bits": f"{mean_bits(layout, plan):.2f}",
        "tables": ", ".join(f"{table} {plan.rate(table)}" for table in layout.tables),
    }


def _tower(found: Kept) -> str:
    return (
        f"{found.layers} of {found.layers_of} layers, {found.heads / found.heads_of:.0%} of the heads, "
        f"{found.channels / found.channels_of:.0%} of the channels"
    )


def _healing(plan: Plan) -> str:
    what = f"LoRA of rank {plan.heal.rank}" if plan.heal.rank else "all weights"
    return f"{plan.heal.steps} steps, {what}" if plan.heal.steps else "none"


def finalist_note(result: Mapping[str, Any], champion: bool) -> str:
    """What is added to the note of a trial that was examined in full; its translations are of the role select."""
    scores = {direction: (found["bleu"], found["chrf"]) for direction, found in result["scores"].items()}
    shown = "; ".join(f"{direction} {bleu:.1f} / {chrf:.1f}" for direction, (bleu, chrf) in scores.items())
    lines = [
        "",
        "",
        f"### {'Champion' if champion else 'Finalist'}",
        "",
        f"{result['bytes_on_disk']:,} bytes on disk after {result['heal_steps']} steps of healing, in "
        f"`{result['path']}`. BLEU / chrF on the role report: {shown}.",
    ]
    samples = result.get("samples", [])
    if samples:
        lines += ["", "| utterance of select | | translation | reference |", "|---|---|---|---|"]
        lines += [
            f"| {_cell(one['id'])} | {one['direction']} | {_cell(one['translation'])} | {_cell(one['reference'])} |"
            for one in samples
        ]
    return "\n".join(lines)


def study_note(
    name: str,
    ranges: Sequence[SizeRange],
    layout: Layout,
    *,
    directions: Sequence[str],
    sampler: str,
    asked: int,
    trials: Sequence[FrozenTrial],
    summary: Mapping[str, Any] | None = None,
) -> str:
    """What is searched and how it stands; once there is a `summary`, the finalists, too."""
    towers = " and ".join(f"{tower.layers} layers of the {tower.name}" for tower in layout.towers)
    states = {state: sum(trial.state == state for trial in trials) for state in TrialState}
    best = min((t for t in trials if t.state == TrialState.COMPLETE), key=lambda t: t.values[0], default=None)
    within = str(ranges[0]) if len(ranges) == 1 else ", ".join(one.name for one in ranges)
    lines = [
        f"## {name}",
        "",
        f"The best checkpoint in {within}, for {', '.join(directions)}: how many heads and channels stay in each of "
        f"{towers}, at how many bits each is stored, and how many of {layout.vocabulary:,} tokens stay. The source has "
        f"{layout.parameters:,} parameters ({format_bytes(layout.source_bytes, ranges[0].units)}). Sampler: {sampler}. "
        "Both objectives are minimised; every trial is inside its range, so all are feasible.",
        "",
        f"**Trials:** {states[TrialState.COMPLETE]} complete, {states[TrialState.PRUNED]} stopped early, "
        f"{states[TrialState.FAIL]} failed, of {asked} asked for. "
        + (f"Best chrF {100 - best.values[0]:.1f}: trial {best.number}." if best else "None is complete yet."),
        "",
        "Each trial has a note; complete ones have their plan and a picture of it, finalists speech and translations.",
    ]
    return "\n".join([*lines, *_finalists(summary or {})])


def _finalists(summary: Mapping[str, Any]) -> list[str]:
    rows = [*summary.get("baselines", []), *summary.get("finalists", [])]
    if not rows:
        return []
    champion = summary["champion"]
    best = {row["trial"] for row in ([champion] if champion else summary.get("front", []))}
    directions = list(rows[0]["scores"])
    lines = [
        "",
        "### Finalists: BLEU / chrF on the role report",
        "",
        f"| | bytes on disk | chrF on select | {' | '.join(directions)} |",
        f"|---|---{'|---' * (1 + len(directions))}|",
    ]
    for row in {row["trial"]: row for row in rows}.values():
        scores = " | ".join(f"{found['bleu']:.1f} / {found['chrf']:.1f}" for found in row["scores"].values())
        mark = (" (champion)" if champion else " (on the front)") if row["trial"] in best else ""
        lines.append(f"| trial {row['trial']}{mark} | {row['bytes_on_disk']:,} | {row['select_chrf']:.2f} | {scores} |")
    return lines


def _number(value: float) -> str:
    return f"{value:.4g}"


def _cell(words: str) -> str:
    """As it may stand in a cell of a table."""
    return " ".join(words.replace("|", "\\|").replace("<", "&lt;").split())
