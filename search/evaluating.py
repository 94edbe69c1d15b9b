"""Models and hypothesis files scored by themselves, and held against each other."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from compress.checkpoint import folder_bytes, is_checkpoint, load_translator
from corpora.audio import HEARD_SECONDS
from corpora.readings import text_lines
from corpora.roles import DIRECTIONS, open_corpus
from models.devices import PLAIN, Compute, computing
from models.loading import load_source, read_layout
from scoring.comet import Comet
from scoring.figures import figures_of
from scoring.kept import KeptTexts
from scoring.resegment import as_many, resegment, resegmenter
from search.exam import GOLD, Exam
from search.rating import leads_of
from search.settings import check_directions, model_fingerprint
from space.errors import UserError
from space.files import sweep


@dataclass(frozen=True)
class EvaluationSettings:
    """The options of ``launch.py evaluate``: folders of models, and files of hypotheses, a line an utterance.

    Translations on the way are in `kept` until they are scored, and an evaluation that was killed goes on from there.
    """

    paths: tuple[Path, ...]
    data: Path
    directions: tuple[str, ...]
    role: str = "report"
    batch_size: int = 32
    beams: int = 1
    segments: str = GOLD
    segment_seconds: float = HEARD_SECONDS
    comet: str | None = None
    comet_env: Path | None = None
    figures: bool = False
    compute: Compute = PLAIN
    kept: Path = Path("studies/evaluations")


def run_evaluation(settings: EvaluationSettings, console: Console) -> dict[str, Any]:
    """Scores of the one path; of several `systems`, and the leads of the first over each other.

    Files of one name but for their directions (``x.en-de.txt``, ``x.en-zh.txt``) are systems of their own.
    """
    check_directions(settings.directions)
    if settings.batch_size < 1:
        raise UserError(f"--batch-size {settings.batch_size}: at least 1 utterance at once")
    folders = [path for path in settings.paths if path.is_dir()]
    missing = [path for path in settings.paths if not path.exists()]
    if missing:
        raise UserError(f"{missing[0]}: no such folder or file; give the folder of a model, or a file of hypotheses")
    if settings.figures and not folders:
        raise UserError("--figures: are of models; give the folder of one")
    heard = _all_hear(folders) if folders else None
    languages = [DIRECTIONS[direction] for direction in settings.directions]
    corpus = open_corpus(settings.data, languages, heard=heard)
    comet = Comet(settings.comet, settings.comet_env) if settings.comet else None
    try:
        exam = Exam(
            corpus,
            settings.directions,
            corpus.fingerprint(),
            settings.batch_size,
            settings.beams,
            settings.segments,
            settings.segment_seconds,
            comet,
            console,
        )
        exam.check([settings.role])
        if folders:
            _check_kept(settings.kept)
        kept: list[KeptTexts] = []
        with computing(settings.compute):
            found = [
                _of_model(path, exam, settings, kept) if path.is_dir() else _of_file(path, exam, settings.role)
                for path in settings.paths
            ]
    finally:
        if comet is not None:
            comet.close()
    leads = _leads(found, exam, settings.role)
    for one in kept:
        one.done()
    return _shown(found[0]) if len(found) == 1 else {"systems": [_shown(one) for one in found], "leads": leads}


def _check_kept(folder: Path) -> None:
    """Raises UserError where translations on the way could not be kept, before there are any; drops torn ones."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"--kept {folder}: cannot be written ({error.strerror}); give another folder") from error


def _all_hear(folders: Sequence[Path]) -> bool:
    """Whether models hear utterances; otherwise they read them. Raises UserError where some do and some do not."""
    hear = {folder: read_layout(folder).encoder is not None for folder in folders}
    if len(set(hear.values())) > 1:
        ears, eyes = (next(folder for folder in folders if hear[folder] == one) for one in (True, False))
        raise UserError(f"{ears} hears audio and {eyes} reads text; evaluate them apart")
    return all(hear.values())


def _shown(found: dict[str, Any]) -> dict[str, Any]:
    """Without what is only needed to hold systems against each other."""
    scores = {
        direction: {name: value for name, value in one.items() if name != "segments"}
        for direction, one in found["scores"].items()
    }
    return {**{name: value for name, value in found.items() if name != "translations"}, "scores": scores}


def _of_file(path: Path, exam: Exam, role: str) -> dict[str, Any]:
    translations, remark = _hypotheses(path, exam, role)
    scores = replace(exam, directions=tuple(translations)).scored(translations, role)
    for direction in scores.values():
        told = [text for text in direction["signatures"] if not text.startswith(("decoding|", "segments|"))]
        direction["signatures"] = [*told, f"segments|{remark}"]
    return _row(path, path.stat().st_size, role, scores, translations)


def _of_model(path: Path, exam: Exam, settings: EvaluationSettings, kept: list[KeptTexts]) -> dict[str, Any]:
    """Translated and scored; the texts are added to what is to be dropped once all systems are scored."""
    role = settings.role
    if is_checkpoint(path):
        model, processor = load_translator(path)
    else:
        source = load_source(path)
        model, processor = source.model, source.processor
    exam = exam.of(processor)
    key = f"{model_fingerprint(path)}|{exam.data}|{exam.decoding}|{role}"
    kept.append(KeptTexts(settings.kept / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.jsonl", key))
    made = exam.translations(model, processor, role, kept[-1])
    row = _row(path, folder_bytes(path), role, exam.scored(made.texts, role, made.taken_off), made.texts)
    if settings.figures:
        language, examples = DIRECTIONS[exam.directions[0]], exam.corpus.examples(role)
        row["figures"] = figures_of(
            model, processor, examples, language, batch_size=settings.batch_size, beams=settings.beams
        )
    return row


def _row(path: Path, size_bytes: int, role: str, scores: Any, translations: Any) -> dict[str, Any]:
    return {"path": str(path), "bytes": size_bytes, "role": role, "scores": scores, "translations": translations}


def _hypotheses(path: Path, exam: Exam, role: str) -> tuple[dict[str, list[str]], str]:
    """A file's lines as translations of its direction, re-segmented where they are not as many; and which it was.

    The direction stands in the file's name, or is the only one asked for. A file does not say where a talk of it ends,
    so all talks are aligned at once.
    """
    bounded = r"(?<![^\W_]){}(?![^\W_])"
    named = [d for d in DIRECTIONS if re.search(bounded.format(d), path.name, re.IGNORECASE)]
    meant = [d for d in exam.directions if d in named or not named]
    if not meant:
        asked = ",".join(exam.directions)
        raise UserError(f"{path}: is {named[0]} by its name, and --langs is {asked}; give --langs {named[0]}")
    if len(meant) > 1:
        raise UserError(f"{path}: of which direction? give --langs {meant[0]}, or name it so")
    (direction,) = meant
    lines = text_lines(path, "hypotheses")
    if not any(line.strip() for line in lines):
        raise UserError(f"{path}: has no text; give a file with a hypothesis a line")
    references = exam.references(role)[direction]
    if as_many(lines, references):
        return {direction: lines}, "as many lines as references, not re-segmented"
    texts = resegment(lines, references, DIRECTIONS[direction])
    remark = f"{len(lines)} lines for {len(references)} references, all talks at once"
    return {direction: texts}, f"{remark}|{resegmenter().signature}"


def _leads(found: Sequence[dict[str, Any]], exam: Exam, role: str) -> list[dict[str, Any]]:
    """Of the first system over each other in directions that both have."""
    first = {**found[0], "trial": found[0]["path"]}
    rows = []
    for other in found[1:]:
        shared = tuple(d for d in first["translations"] if d in other["translations"])
        one = replace(exam, directions=shared)
        rows += leads_of(first, [{**other, "trial": other["path"]}], one, role)
    return rows
