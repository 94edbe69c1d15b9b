"""The bank: what trials are put together from, made once for a source and data and shared by studies and workers."""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console

from compress.facts import BankFolder
from compress.shelf import Shelf
from corpora.roles import BUNDLED as BUNDLED_CORPUS
from corpora.roles import DIRECTIONS, open_corpus
from models.devices import compute_of, computing, current
from models.loading import load_source
from models.reference import resolve_model
from proxies.deviation import OptionErrors
from proxies.sensitivity import Sensitivities, points
from proxies.tryout import Tryout
from search.progress import progress_on
from search.settings import BANK_SIZE, check_directions, model_fingerprint
from search.workbench import Workbench, counted, keep_errors, make_workbench, option_errors, sensitivities
from space.bins import bytes_of
from space.choices import VOCABULARY, choices, plan_of
from space.errors import UserError
from space.files import sweep, write_whole
from space.layout import Layout
from space.plan import Plan, Sublayer
from space.rates import LADDERS

# Changes whenever what is in a file of the same name would be another, or written in another way: rows that are
# measured on, tolerances, names, checksums.
_FORMAT = 6
_ABOUT, _PIECES = "about.json", "pieces"


@dataclass(frozen=True)
class BankSettings:
    """The options of ``launch.py bank``; `model` is a folder, a hub id, or None for the bundled one."""

    model: str | None = None
    data: Path = BUNDLED_CORPUS
    directions: tuple[str, ...] = tuple(DIRECTIONS)
    rates: str = "coded"
    bank: Path = Path("studies/bank")
    bank_size: str = BANK_SIZE
    device: str = "auto"
    precision: str = "auto"

    @property
    def languages(self) -> tuple[str, ...]:
        return tuple(DIRECTIONS[direction] for direction in self.directions)


def open_bank(bank: Path, size: str, *, model: str, data: str, languages: Sequence[str]) -> BankFolder:
    """The folder of a source and data, by their fingerprints, in a bank; another for what another device computes.

    Raises UserError for no size.
    """
    most_bytes = bytes_of(size, "--bank-size")
    text = _about_bank(model, data, languages)
    folder = bank / bank_fingerprint(model, data, languages)
    if bank.exists() and not bank.is_dir():
        raise UserError(f"--bank {bank}: is a file; give a folder")
    if not (folder / _ABOUT).exists():
        write_whole(folder / _ABOUT, text, shared=True)
    for half_written in (folder, folder / _PIECES):
        sweep(half_written)
    return BankFolder(folder, Shelf(folder / _PIECES, most_bytes))


def bank_fingerprint(model: str, data: str, languages: Sequence[str]) -> str:
    """A hash of everything that pieces and facts are made from, and of how; the name of their folder."""
    return hashlib.sha256(_about_bank(model, data, languages).encode()).hexdigest()[:16]


def _about_bank(model: str, data: str, languages: Sequence[str]) -> str:
    about: dict[str, Any] = {"format": _FORMAT, "model": model, "data": data, "languages": list(languages)}
    if current().signature:
        about["computed"] = current().name
    return json.dumps(about, indent=1)


def measured_sensitivities(workbench: Workbench, layout: Layout, console: Console) -> Sensitivities:
    """What single options of a layout cost; a bar shows how far it is where some were not measured before."""
    with progress_on(console) as progress:
        task = progress.add_task("sensitivities", total=sum(1 for _ in points(layout)))
        return sensitivities(
            workbench, layout, lambda name: progress.update(task, advance=1, description=f"sensitivities, {name}")
        )


def _bank_option(workbench: Workbench, errors: Mapping[str, OptionErrors], plan: Plan, name: str) -> None:
    """The pieces and errors of one unit of a plan, where the bank has none."""
    assembler = workbench.assembler
    assembler.prepare(plan, name)
    called = assembler.called(plan, name)
    missing = [one for one in errors.values() if called not in one.known]
    if not missing:
        return
    tryout = Tryout(plan, assembler.assembled(plan))
    for one in missing:
        one(tryout)


def run_bank(settings: BankSettings, console: Console) -> dict[str, Any]:
    """Makes every option of each sublayer and table, and measures errors and sensitivities; what is there stays.

    Sublayers with others removed behind them are left to the trials that remove them. Raises UserError for mistakes.
    """
    with computing(compute_of(settings.device, settings.precision)):
        return _banked(settings, console)


def _banked(settings: BankSettings, console: Console) -> dict[str, Any]:
    started = time.monotonic()
    check_directions(settings.directions)
    bytes_of(settings.bank_size, "--bank-size")
    folder = resolve_model(settings.model)
    source = load_source(folder)
    source = replace(source, layout=replace(source.layout, rates=LADDERS[settings.rates]))
    corpus = open_corpus(settings.data, settings.languages, heard=source.layout.encoder is not None)
    source = counted(source, corpus, settings.languages)
    bank = open_bank(
        settings.bank,
        settings.bank_size,
        model=model_fingerprint(folder),
        data=corpus.fingerprint(),
        languages=settings.languages,
    )
    with console.status("measuring the source"):
        workbench = make_workbench(source, corpus, settings.languages, bank)
    options = choices(source.layout)
    whole = {name: found[-1] for name, found in options.items()}
    names = [name for name in options if name != VOCABULARY]
    # several workers begin in different places, and find what the others made
    random.Random(os.getpid()).shuffle(names)
    asked = [
        (name, {**whole, name: option, VOCABULARY: tokens})
        for name in names
        for option in options[name]
        if not isinstance(option, Sublayer) or option.kept
        for tokens in (options[VOCABULARY] if name in ("embedding", "lm_head") else (whole[VOCABULARY],))
    ]
    errors = option_errors(workbench)
    with progress_on(console) as progress:
        task = progress.add_task("bank", total=len(asked))
        for name, of_name in groupby(asked, key=lambda one: one[0]):
            for _, chosen in of_name:
                _bank_option(workbench, errors, plan_of(source.layout, chosen), name)
                progress.update(task, advance=1, description=name)
            keep_errors(workbench, errors)
    measured = measured_sensitivities(workbench, source.layout, console)
    return {
        "folder": str(bank.path),
        "options": len(asked),
        "made": bank.shelf.made,
        "errors": sum(len(found.known) for found in errors.values()),
        "sensitivities": sum(map(len, measured.measured.values())),
        "bytes": bank.shelf.size_bytes(),
        "most_bytes": bank.shelf.most_bytes,
        "seconds": round(time.monotonic() - started, 1),
    }
