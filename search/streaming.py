"""A plan carried out without a search: settings, data, and the checkpoint of a model of any size."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from compress.ledger import open_ledger
from compress.stream import Task, make_task, memory_bound, stream, write_streamed
from corpora.roles import BUNDLED as BUNDLED_CORPUS
from corpora.roles import DIRECTIONS, Corpus, open_corpus
from models.devices import compute_of, computing, current
from models.inputs import Row, make_row, read_utterance
from models.loading import check_tokenizer, fixed_files, load_processor, read_layout
from models.reference import resolve_model
from models.vocabulary import read_vocabulary
from search.locks import alone
from search.settings import check_directions, model_fingerprint
from search.workbench import by_turns, counted_vocabulary
from space import VERSION
from space.choices import hears
from space.errors import UserError
from space.layout import Layout
from space.misfit import Misfit, misfit
from space.plan import NO_HEAL, Plan, plan_from_json
from space.size import plan_parameters, plan_size

# 1: a ledger of units in their stored form, float32 activations. 2: removed sublayers are made up for. 3: entries have
# a price.
FORMAT = 3
MEASURED_ON = "calibrate"


@dataclass(frozen=True)
class StreamSettings:
    """The options of ``launch.py compress``; `utterances` of the calibrate role are heard or read."""

    model: str | None
    plan: Path
    out: Path
    data: Path = BUNDLED_CORPUS
    directions: tuple[str, ...] = ("en-de", "en-zh")
    utterances: int = 32
    device: str = "auto"
    precision: str = "auto"

    @property
    def work_folder(self) -> Path:
        return self.out.with_name(f".{self.out.name}.streaming")

    def check(self) -> None:
        """Raises UserError for settings that ask for nothing that can be done."""
        if self.out.name in ("", ".."):
            raise UserError(f"--out {self.out}: give the name of a new folder, for instance compressed")
        if self.out.exists():
            raise UserError(f"--out {self.out}: is there already; give another name, or remove it first")
        if self.utterances < 1:
            raise UserError(f"--utterances {self.utterances}: at least 1; leave it out for 32")
        check_directions(self.directions)


def run_streaming(settings: StreamSettings, console: Console) -> dict[str, Any]:
    """Carries a plan out, or goes on with it; returns what there is to say. Raises UserError for mistakes."""
    with computing(compute_of(settings.device, settings.precision)):
        return _streamed(settings, console)


def _streamed(settings: StreamSettings, console: Console) -> dict[str, Any]:
    started = time.monotonic()
    settings.check()
    folder = resolve_model(settings.model)
    layout, asked = read_layout(folder), _read_plan(settings.plan)
    plan = replace(asked, heal=NO_HEAL)
    _check_fits(settings.plan, plan, layout, 1)
    languages = [DIRECTIONS[direction] for direction in settings.directions]
    corpus = open_corpus(settings.data, languages, heard=layout.encoder is not None)
    processor = load_processor(folder)
    plain = read_vocabulary(layout.vocabulary, fixed_files(folder))
    vocabulary = counted_vocabulary(plain, processor, corpus, languages)
    _check_fits(settings.plan, plan, layout, vocabulary.least)
    groups = _groups(processor, corpus, languages, settings.utterances)
    task = make_task(folder, plan, layout=layout, vocabulary=vocabulary, groups=groups)
    check_tokenizer(processor, task.whole, folder)
    key = _key(settings, plan, model=model_fingerprint(folder), data=corpus.fingerprint())
    with alone(settings.work_folder):
        begun = open_ledger(settings.work_folder, key)
        if begun.done:
            console.print(f"goes on after {begun.done[-1][0]}, {len(begun.done)} of {len(task.units())} units")
        with console.status("reading the model") as status:
            size_bytes = _carried_out(settings, task, key, status.update)
        shutil.rmtree(settings.work_folder)
    return {
        "path": str(settings.out),
        "bytes": size_bytes,
        "predicted_bytes": plan_size(layout, plan, vocabulary.fixed_bytes).total,
        "source_bytes": layout.source_bytes,
        "parameters": plan_parameters(layout, plan),
        "utterances": len(groups),
        "role": MEASURED_ON,
        "langs": list(settings.directions),
        "units": len(task.units()),
        "units_resumed": len(begun.done),
        "heal_steps_left_out": asked.heal.steps,
        "seconds": round(time.monotonic() - started, 1),
        "peak_bytes": _peak_bytes(),
        "bound_bytes": memory_bound(layout),
    }


def _peak_bytes() -> int:
    """The most memory this process ever held; `getrusage` would give the parent's where that had more."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def _carried_out(settings: StreamSettings, task: Task, key: str, progress: Any) -> int:
    """The folder's bytes. A full disk is the user's to mend: what was finished is kept."""
    try:
        ledger = stream(task, open_ledger(settings.work_folder, key), progress)
        return write_streamed(settings.out, task, ledger)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        shutil.rmtree(settings.out.with_name(f".{settings.out.name}.tmp"), ignore_errors=True)
        raise UserError(
            f"--out {settings.out}: the disk is full; what was finished is kept in {settings.work_folder}: make room "
            "and give the same command, or remove that folder"
        ) from error


def _read_plan(path: Path) -> Plan:
    """The plan of a file, or of a checkpoint's folder. Raises UserError naming the file."""
    file = path / "plan.json" if path.is_dir() else path
    try:
        return plan_from_json(file.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--plan {path}: not readable ({error}); give a plan.json") from error
    except UserError as error:
        raise UserError(f"--plan {path}: {error}") from error


def _check_fits(path: Path, plan: Plan, layout: Layout, least_tokens: int) -> None:
    """Raises UserError saying in what a plan does not fit a model, `least_tokens` of whose tokens must stay."""
    wrong = misfit(plan, layout)
    if not wrong and plan.vocabulary < least_tokens:
        wrong = Misfit("tokens", plan.vocabulary, f"{least_tokens} that must stay, of {layout.vocabulary}")
    if wrong:
        difference = f"{wrong.what}: the plan has {wrong.plan}, the model {wrong.model}"
        raise UserError(f"--plan {path}: {difference}; give a plan of this model")
    if not hears(plan):
        raise UserError(f"--plan {path}: the decoder keeps no attention, so nothing of the input would reach it")


def _groups(processor: Any, corpus: Corpus, languages: Sequence[str], utterances: int) -> list[list[Row]]:
    """Rows of the first utterances of the calibrate role, every talk in turn; a row for each language."""
    groups = []
    for example in by_turns(corpus.examples(MEASURED_ON))[:utterances]:
        utterance = read_utterance(processor, example.utterance)
        groups.append(
            [make_row(processor, utterance, code, example.references[code], example.prompt) for code in languages]
        )
    corpus.opened.clear()
    return groups


def _key(settings: StreamSettings, plan: Plan, *, model: str, data: str) -> str:
    """What must be the same for a run to go on where another stopped."""
    parts = [FORMAT, VERSION, model, data, plan.to_json(), settings.directions, settings.utterances]
    parts += filter(None, [current().signature])
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
