"""From finished studies to the submission: hypotheses of finalists in an archive, and the message beside it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from compress.checkpoint import folder_bytes, load_translator, read_plan
from corpora.roles import DIRECTIONS, open_corpus
from models.loading import read_layout
from scoring.figures import figures_of
from scoring.submission import (
    CONTRASTIVE,
    PRIMARY,
    TASK_PAGE,
    Submission,
    System,
    check_user,
    files_of,
    message_of,
    write_archive,
)
from search.finalists import RESULT
from search.finals import SUMMARY
from search.settings import is_study_name
from space.bins import REFERENCE_BYTES, UNITS, Units, bin_of
from space.errors import UserError, first_line
from space.files import write_whole
from space.layout import Layout
from space.plan import Plan
from space.techniques import techniques

MESSAGE = "message.txt"
_BATCH_SIZE = 32
_AGAIN = "run the search's command again"
_OF_SUMMARIES = {
    *("bin", "units", "condition", "utterances", "data", "signatures"),
    *("finalists", "champion", "baselines", "source"),
}
_OF_RESULTS = {"bytes_on_disk", "parameters", "scores", "translations"}


@dataclass(frozen=True)
class SubmitSettings:
    """The options of ``launch.py submit``. Trials are numbers, or STUDY:NUMBER where there are several studies.

    A study's champion is a primary unless a `primary` of the study is named; of a study over all sizes the best of its
    front in each bin is, unless another trial is named for the bin, or another study's champion stands for it. With
    `figures` what translating costs is measured here, for the message.
    """

    studies: tuple[str, ...]
    user: str
    contact: str
    institute: str = ""
    email: str = ""
    primary: tuple[str, ...] = ()
    contrastive: tuple[str, ...] = ()
    form: str = TASK_PAGE
    empty_as: str | None = None
    figures: bool = False
    out: Path = Path("submission")
    root: Path = Path("studies")


def run_submission(settings: SubmitSettings) -> dict[str, Any]:
    """Writes OUT/USER.tar.gz and OUT/message.txt and says what is in them. Raises UserError before it writes."""
    check_user(settings.user)
    if not settings.studies or len(set(settings.studies)) != len(settings.studies):
        raise UserError("--study: name each study once")
    if wrong := [text for text in settings.studies if not is_study_name(text)]:
        raise UserError(f"--study {wrong[0]}: a study's name is one folder name; where studies are is --root")
    if any(path.is_file() for path in (settings.out, *settings.out.parents)):
        raise UserError(f"--out {settings.out}: is a file, or below one; give a folder")
    summaries = {name: _summary(settings.root / name) for name in settings.studies}
    conditions = {summary["condition"] for summary in summaries.values()}
    if len(conditions) > 1:
        raise UserError("--study: some studies are of the constrained condition and some are not; submit them apart")
    counts = {summary["utterances"] for summary in summaries.values()}
    data = {
        _data_of(texts)
        for summary in summaries.values()
        for texts in summary["signatures"].values()
        if isinstance(texts, list)
    }
    if len(counts) > 1 or len(data) > 1:
        raise UserError("--study: studies were reported on different data; submit them apart")
    chosen = _chosen(settings, summaries)
    submission = Submission(
        user=settings.user,
        institute=settings.institute or settings.user,
        contact=settings.contact,
        email=settings.email,
        condition=conditions.pop(),
        systems=tuple(one.system for one in chosen),
        utterances=counts.pop(),
        form=settings.form,
        empty_as=settings.empty_as,
    )
    files, mended = files_of(submission)
    systems = [replace(one.system, details=_details_of(one, settings, summaries[one.study])) for one in chosen]
    submission = replace(submission, systems=tuple(systems))
    archive = settings.out / f"{settings.user}.tar.gz"
    message = message_of(submission, mended)
    write_archive(archive, files)
    write_whole(settings.out / MESSAGE, message)
    return {
        "archive": str(archive),
        "sha256": hashlib.sha256(archive.read_bytes()).hexdigest(),
        "bytes": archive.stat().st_size,
        "message": str(settings.out / MESSAGE),
        "files": [
            {"name": name, "bytes": len(content), "lines": content.count(b"\n")}
            for name, content in sorted(files.items())
        ],
        "mended": {"breaks": mended.breaks, "empty": mended.empty},
        "text": message,
    }


def _summary(folder: Path) -> dict[str, Any]:
    path = folder / SUMMARY
    try:
        summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"--study {folder.name}: {path} is not there; let the search finish, or give --root") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged; {_AGAIN}, which writes it anew") from error
    if not _is_whole(summary):
        raise UserError(f"{path} is of an earlier version; {_AGAIN}, which writes it anew")
    return summary


def _is_whole(summary: Any) -> bool:
    """Whether a summary has what a submission is made of."""
    if not isinstance(summary, dict) or not summary.keys() >= _OF_SUMMARIES:
        return False
    rows = [*summary["finalists"], *summary["baselines"], *(summary.get("front") or [])]
    if summary["champion"] is not None:
        rows.append(summary["champion"])
    return (
        str(summary["units"]) in UNITS
        and all(isinstance(summary[name], dict) for name in ("source", "signatures"))
        and "bytes" in summary["source"]
        and all(isinstance(row, dict) and row.keys() >= {"trial", "bytes_on_disk"} for row in rows)
    )


def _data_of(signatures: Sequence[str]) -> tuple[str, ...]:
    """What of a score's signatures names its data."""
    return tuple(text for text in signatures if text.startswith("report role of data"))


def _said_of(signatures: Sequence[str]) -> tuple[str, ...]:
    """What of a score's signatures names its data and how they are segmented."""
    return (*_data_of(signatures), *(text for text in signatures if text.startswith("segments|")))


@dataclass(frozen=True)
class _Chosen:
    """What goes out: a study's trial, as a system without details, and what these are made of."""

    study: str
    trial: int
    system: System
    layout: Layout
    plan: Plan
    scores: Mapping[str, Mapping[str, Any]]

    @property
    def name(self) -> str:
        return f"{self.study}:{self.trial}"


def _chosen(settings: SubmitSettings, summaries: Mapping[str, Mapping[str, Any]]) -> list[_Chosen]:
    """Primaries first; contrastives of a language and bin numbered in the order they were given."""
    primaries = [_named(text, "--primary", settings) for text in settings.primary]
    contrastives = [_named(text, "--contrastive", settings) for text in settings.contrastive]
    named = [*primaries, *contrastives]
    if twice := [f"{study}:{trial}" for study, trial in named if named.count((study, trial)) > 1]:
        raise UserError(f"{twice[0]} is named twice by --primary and --contrastive; name each trial once")

    def chosen(study: str, trial: int, kind: str) -> _Chosen:
        return _read(settings, summaries[study], study, trial, kind)

    found = [chosen(study, trial, PRIMARY) for study, trial in primaries]
    fronts = [name for name, summary in summaries.items() if summary.get("front")]
    singles = [name for name in summaries if name not in {*fronts, *(study for study, _ in primaries)}]
    # what a front has for a bin gives way to what is named for it, and to the champion of a study of that bin
    for group in (singles, fronts):
        taken = {place for one in found for place in _places(one.system)}
        for name in group:
            best = [chosen(name, trial, PRIMARY) for trial in _best(name, summaries[name], named)]
            free = [left for one in best if (left := _without(one, taken)).system.hypotheses]
            if best and not free and name not in {study for study, _ in named}:
                raise UserError(
                    f"--study {name}: other studies have the primary of each of its bins; leave the study out, or give "
                    f"--contrastive {best[0].name}"
                )
            found += free
    _check_apart(found)
    return [*found, *_numbered([chosen(study, trial, CONTRASTIVE) for study, trial in contrastives])]


def _without(chosen: _Chosen, taken: Set[tuple[int, str]]) -> _Chosen:
    """With the languages that nothing else is primary of in its bin."""
    system = chosen.system
    left = {d: texts for d, texts in system.hypotheses.items() if (system.bin, d) not in taken}
    return replace(chosen, system=replace(system, hypotheses=left))


def _check_apart(primaries: Sequence[_Chosen]) -> None:
    """Raises UserError where two trials are primary of one language and bin."""
    of_place: dict[tuple[int, str], str] = {}
    for one in primaries:
        for direction in one.system.hypotheses:
            place = one.system.bin, direction
            if place in of_place:
                raise UserError(
                    f"{of_place[place]} and {one.name} are both primary of {direction} in bin {one.system.bin}; one "
                    "--primary for each language and bin, the others are --contrastive"
                )
            of_place[place] = one.name


def _places(system: System) -> set[tuple[int, str]]:
    """Bins and languages, each of which has one primary."""
    return {(system.bin, direction) for direction in system.hypotheses}


def _numbered(contrastives: Sequence[_Chosen]) -> list[_Chosen]:
    """Contrastives with their numbers, from 1 in each place; a system has one for all its languages."""
    counts: dict[tuple[int, str], int] = {}
    found = []
    for one in contrastives:
        places = _places(one.system)
        number = 1 + max(counts.get(place, 0) for place in places)
        counts |= dict.fromkeys(places, number)
        found.append(replace(one, system=replace(one.system, kind=f"{CONTRASTIVE}{number}")))
    return found


def _best(name: str, summary: Mapping[str, Any], named: Sequence[tuple[str, int]]) -> list[int]:
    """A study's champion, or the best of its front in each bin, in the front's order; trials that are named go as what
    they are named.
    """
    rows = [summary["champion"]] if summary["champion"] is not None else summary.get("front")
    if not rows:
        raise UserError(f"--study {name}: no trial of it was complete; search on, with more --trials")
    left = [row for row in rows if (name, row["trial"]) not in named]
    # a front's later rows are larger and better
    return list({_bin_of(row, summary): int(row["trial"]) for row in left}.values())


def _bin_of(row: Mapping[str, Any], summary: Mapping[str, Any]) -> int | None:
    return bin_of(row["bytes_on_disk"], summary["source"]["bytes"], UNITS[summary["units"]])


def _named(text: str, option: str, settings: SubmitSettings) -> tuple[str, int]:
    """Study and trial of an option's value."""
    study, _, number = text.rpartition(":")
    if not study and len(settings.studies) == 1:
        study = settings.studies[0]
    if study not in settings.studies or not number.isdecimal():
        example = f"{settings.studies[0]}:12" if len(settings.studies) > 1 else "12"
        raise UserError(f"{option} {text}: names no trial of a --study; write it as {example}")
    return study, int(number)


def _read(settings: SubmitSettings, summary: Mapping[str, Any], study: str, trial: int, kind: str) -> _Chosen:
    """A finalist as a system. Raises UserError for one that is not, is damaged, not scored, or in no bin."""
    folder = _folder(settings, study, trial)
    rows = [*summary["finalists"], *summary["baselines"]]
    if trial not in {row["trial"] for row in rows}:
        examined = ", ".join(str(row["trial"]) for row in rows)
        raise UserError(f"{study}: trial {trial} is no finalist; those are {examined or 'none'}")
    result = _result(folder / RESULT, summary)
    try:
        layout, plan = read_plan(folder / "model")
    except UserError as error:
        reason = first_line(error).partition("; ")[0]
        raise UserError(f"{reason}; {_AGAIN}, which writes it anew") from error
    weight = folder_bytes(folder / "model")
    if weight != result["bytes_on_disk"]:
        raise UserError(
            f"{folder / 'model'} weighs {weight:,} bytes, not the {result['bytes_on_disk']:,} it was scored with; "
            f"{_AGAIN}, which writes it anew"
        )
    number = bin_of(weight, layout.source_bytes, UNITS[summary["units"]])
    if number is None:
        raise UserError(
            f"{folder / 'model'}: {weight:,} bytes are larger than every bin; search a bin, for instance --bin 1"
        )
    if summary["bin"] not in (None, number):
        raise UserError(
            f"{folder / 'model'}: {weight:,} bytes are in bin {number}, and the study is of bin {summary['bin']}; "
            f"{_AGAIN} under another --study"
        )
    system = System(number, kind, result["translations"], weight, result["parameters"], techniques(layout, plan))
    return _Chosen(study, trial, system, layout, plan, result["scores"])


def _folder(settings: SubmitSettings, study: str, trial: int) -> Path:
    return settings.root / study / "finalists" / f"trial-{trial}"


def _details_of(chosen: _Chosen, settings: SubmitSettings, summary: Mapping[str, Any]) -> tuple[str, ...]:
    """What the message says besides of a system that goes out."""
    system, source_bytes = chosen.system, chosen.layout.source_bytes
    scores = {direction: chosen.scores[direction] for direction in system.hypotheses if direction in chosen.scores}
    adapted = summary["source"].get("adapted")
    details = [
        *_scaled(source_bytes),
        *_elsewhere(system.storage_bytes, system.bin, source_bytes, UNITS[summary["units"]]),
        f"data: {Path(summary['data']).name}; calibrated{' and healed' if chosen.plan.heal.steps else ''} on its role "
        "calibrate, searched on proxy, chosen on select; scores are on report, which the search does not see",
        *([f"the source was adapted first: {adapted}"] if adapted else []),
        *_details(scores),
    ]
    if settings.figures:
        details += _figures(_folder(settings, chosen.study, chosen.trial) / "model", summary, system.hypotheses)
    return tuple(details)


def _result(path: Path, summary: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of a finalist. Raises UserError where it was not scored in full, or not as the summary says."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} is not there; {_AGAIN}, which makes it") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged; {_AGAIN}, which mends it") from error
    if not isinstance(result, dict) or not result.keys() >= _OF_RESULTS or not result["translations"]:
        raise UserError(f"{path} has no scores and translations of the report role yet; {_AGAIN}, which adds them")
    for direction, scores in result["scores"].items():
        if _said_of(scores["signatures"]) != _said_of(summary["signatures"].get(direction, ())):
            raise UserError(f"{path} is of other data or segments than {SUMMARY} of its study; {_AGAIN}")
    return result


def _scaled(source_bytes: int) -> list[str]:
    """A line where bins are not the task's own."""
    if source_bytes == REFERENCE_BYTES:
        return []
    return [f"bounds of bins scaled to a source of {source_bytes:,} bytes (Qwen2-Audio-7B: {REFERENCE_BYTES:,})"]


def _elsewhere(weight: int, number: int, source_bytes: int, units: Units) -> list[str]:
    """A line where it depends on the units in which bin a system is."""
    then = bin_of(weight, source_bytes, units.other)
    if then == number:
        return []
    elsewhere = f"bin {then}" if then else "no bin"
    return [f"bin {number} where a kB is {units.kilo} bytes, {elsewhere} where it is {units.other.kilo}"]


def _figures(model: Path, summary: Mapping[str, Any], hypotheses: Mapping[str, Sequence[str]]) -> list[str]:
    """Lines on what translating the report role costs, each with how it was measured."""
    direction = next(iter(hypotheses))
    loaded, processor = load_translator(model)
    heard = read_layout(model).encoder is not None
    corpus = open_corpus(Path(summary["data"]), [DIRECTIONS[direction]], heard=heard)
    found = figures_of(
        loaded,
        processor,
        corpus.examples("report"),
        DIRECTIONS[direction],
        batch_size=_BATCH_SIZE,
        beams=summary.get("beams", 1),
    )
    return [f"{name}: {figure['value']:,} ({figure['method']})" for name, figure in found.items()]


def _details(scores: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Scores on the data that are submitted, of which there are references here, and the signatures of each."""
    names = {"comet": "COMET", "bleu": "BLEU", "chrf": "chrF2", "chrf++": "chrF2++"}
    lines = [
        f"{direction}: " + ", ".join(f"{name} {one[key]:.2f}" for key, name in names.items() if key in one)
        for direction, one in scores.items()
    ]
    of_text: dict[str, list[str]] = {}
    for direction, one in scores.items():
        for text in one["signatures"]:
            of_text.setdefault(text, []).append(direction)
    return [*lines, *(f"{', '.join(directions)} signature: {text}" for text, directions in of_text.items())]
