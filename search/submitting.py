"""From finished studies to the submission: hypotheses of finalists in an archive, and the message beside it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
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
from space.bins import UNITS, bin_of
from space.errors import UserError
from space.files import write_whole
from space.techniques import techniques

MESSAGE = "message.txt"
_BATCH_SIZE = 32


@dataclass(frozen=True)
class SubmitSettings:
    """The options of ``launch.py submit``. Trials are numbers, or STUDY:NUMBER where there are several studies.

    Without a `primary` of a study its champion is that. With `figures` what translating costs is measured here, for the
    message.
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
    summaries = {name: _summary(settings.root / name) for name in settings.studies}
    conditions = {summary["condition"] for summary in summaries.values()}
    if len(conditions) > 1:
        raise UserError("--study: some studies are of the constrained condition and some are not; submit them apart")
    counts = {summary["utterances"] for summary in summaries.values()}
    data = {next(iter(_signatures(summary))) for summary in summaries.values()}
    if len(counts) > 1 or len(data) > 1:
        raise UserError("--study: studies were reported on different data; give those of one")
    submission = Submission(
        user=settings.user,
        institute=settings.institute or settings.user,
        contact=settings.contact,
        email=settings.email,
        condition=conditions.pop(),
        systems=_systems(settings, summaries),
        utterances=counts.pop(),
        form=settings.form,
        empty_as=settings.empty_as,
    )
    files, mended = files_of(submission)
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
        raise UserError(f"{path} is damaged; run the search's command again, which writes it anew") from error
    if "utterances" not in summary or "condition" not in summary:
        raise UserError(f"{path} is of an earlier version; run the search's command again, which writes it anew")
    return summary


def _signatures(summary: Mapping[str, Any]) -> list[str]:
    """What names the data that scores are on."""
    found = [text for texts in summary["signatures"].values() if isinstance(texts, list) for text in texts]
    return [text for text in found if text.startswith("report role of data")] or [""]


def _systems(settings: SubmitSettings, summaries: Mapping[str, Mapping[str, Any]]) -> tuple[System, ...]:
    """Primaries first; contrastives of a bin numbered in the order they were given."""
    primaries = [_named(text, "--primary", settings) for text in settings.primary]
    of_bins = [study for study, _ in primaries if summaries[study]["bin"] is not None]
    if several := [study for study in of_bins if of_bins.count(study) > 1]:
        raise UserError(f"--primary: {several[0]} has two; name one, the others are --contrastive")
    given = {study for study, _ in primaries}
    for name, summary in summaries.items():
        if name not in given:
            primaries += [(name, number) for number in _champions(name, summary)]
    found = [_system(settings, summaries[study], study, trial, PRIMARY) for study, trial in primaries]
    counts: dict[int, int] = {}
    for text in settings.contrastive:
        study, trial = _named(text, "--contrastive", settings)
        if (study, trial) in primaries:
            raise UserError(f"--contrastive {text}: is the primary already; name another trial")
        system = _system(settings, summaries[study], study, trial, CONTRASTIVE)
        counts[system.bin] = counts.get(system.bin, 0) + 1
        found.append(replace(system, kind=f"{CONTRASTIVE}{counts[system.bin]}"))
    return tuple(found)


def _champions(name: str, summary: Mapping[str, Any]) -> Sequence[int]:
    if summary["champion"] is None:
        raise UserError(f"--study {name}: has no champion; name trials, such as --primary {name}:12")
    return [summary["champion"]["trial"]]


def _named(text: str, option: str, settings: SubmitSettings) -> tuple[str, int]:
    """Study and trial of an option's value."""
    study, _, number = text.rpartition(":")
    if not study and len(settings.studies) == 1:
        study = settings.studies[0]
    if study not in settings.studies or not number.isdecimal():
        example = f"{settings.studies[0]}:12" if len(settings.studies) > 1 else "12"
        raise UserError(f"{option} {text}: names no trial of a --study; write it as {example}")
    return study, int(number)


def _system(settings: SubmitSettings, summary: Mapping[str, Any], study: str, trial: int, kind: str) -> System:
    """A finalist as a system. Raises UserError for one that is not, is damaged, not scored, or in no bin."""
    folder = settings.root / study / "finalists" / f"trial-{trial}"
    rows = [*summary["finalists"], *summary["baselines"]]
    if trial not in {row["trial"] for row in rows}:
        examined = ", ".join(str(row["trial"]) for row in rows)
        raise UserError(f"{study}: trial {trial} is no finalist; those are {examined or 'none'}")
    try:
        result: dict[str, Any] = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        hypotheses, scores = result["translations"], result["scores"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder / RESULT} is not whole; run the search's command again, which mends it") from error
    layout, plan = read_plan(folder / "model")
    weight = folder_bytes(folder / "model")
    if weight != result["bytes_on_disk"]:
        raise UserError(
            f"{folder / 'model'} weighs {weight:,} bytes, not the {result['bytes_on_disk']:,} it was scored with; run "
            "the search's command again"
        )
    number = bin_of(weight, layout.source_bytes, UNITS[summary["units"]])
    if number is None:
        raise UserError(f"{folder / 'model'}: {weight:,} bytes are larger than every bin; submit a smaller one")
    if summary["bin"] not in (None, number):
        raise UserError(f"{folder / 'model'}: {weight:,} bytes are in bin {number}, the study is of {summary['bin']}")
    details = [*_details(scores), *(_figures(folder / "model", summary, hypotheses) if settings.figures else ())]
    return System(number, kind, hypotheses, weight, result["parameters"], techniques(layout, plan), tuple(details))


def _figures(model: Path, summary: Mapping[str, Any], hypotheses: Mapping[str, Sequence[str]]) -> list[str]:
    """Lines on what translating the report role costs, each with how it was measured."""
    direction = next(iter(hypotheses))
    loaded, processor = load_translator(model)
    heard = read_layout(model).encoder is not None
    corpus = open_corpus(Path(summary["data"]), [DIRECTIONS[direction]], heard=heard)
    found = figures_of(loaded, processor, corpus.examples("report"), DIRECTIONS[direction], _BATCH_SIZE)
    return [f"{name}: {figure['value']:,} ({figure['method']})" for name, figure in found.items()]


def _details(scores: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """Scores on the data that are submitted, where they have references, and what made them."""
    names = {"comet": "COMET", "bleu": "BLEU", "chrf": "chrF2"}
    lines = [
        f"{direction}: " + ", ".join(f"{names[name]} {one[name]:.2f}" for name in names if name in one)
        for direction, one in scores.items()
    ]
    first = next(iter(scores.values()))["signatures"]
    return (*lines, *(text for text in first if text.startswith(("COMET|", "decoding|", "segments|"))))
