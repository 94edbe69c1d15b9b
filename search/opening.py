"""What a search and a study of its proxies begin with: model, data and limits, checked; then the bank."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from corpora.roles import CONSTRAINED, Corpus, check_condition, open_corpus
from models.loading import Source, load_source
from models.reference import resolve_model
from models.vocabulary import with_vocabulary
from search.banking import measured_sensitivities, open_bank
from search.baselines import losses_of
from search.settings import SearchSettings, model_fingerprint
from search.workbench import Workbench, counted, make_workbench
from space.choices import VOCABULARY
from space.errors import UserError, first_line
from space.limits import Limits
from space.pins import read_pins
from space.policy import Loss
from space.rates import LADDERS

_MOST_FINDINGS = 4
# What `launch.py adapt` leaves beside a model.
ADAPTED = "adapted.json"


@dataclass(frozen=True)
class Opened:
    """Model and data with their fingerprints, and the limits that plans of them must keep to.

    Of a study over all sizes those of each range that can be reached, the smallest first, and in `left_out` why others
    cannot.
    """

    source: Source
    corpus: Corpus
    ranges: tuple[Limits, ...]
    model: str
    data: str
    left_out: tuple[str, ...] = ()

    @property
    def limits(self) -> Limits:
        """Of a study of one range."""
        (found,) = self.ranges
        return found


def opened(settings: SearchSettings) -> Opened:
    """Loads and checks what the settings name. Raises UserError for mistakes; nothing is written."""
    settings.check()
    folder = resolve_model(settings.model)
    source = load_source(folder)
    source = replace(source, layout=replace(source.layout, rates=LADDERS[settings.rates]))
    early = [pin for pin in settings.pins if not pin.lstrip().startswith(VOCABULARY)]
    # Asks whether anything could fit before the data is read; what the prompts need of the vocabulary is added then.
    trimmed = replace(source, layout=with_vocabulary(source.layout, source.vocabulary))
    _reachable(settings, trimmed, early)
    corpus = open_corpus(settings.data, settings.languages, heard=source.layout.encoder is not None)
    corpus.sealed.add("report")
    check_condition(settings.condition, corpus, f"--data {settings.data}")
    data = corpus.fingerprint()
    _check_adapted(folder, data, settings.condition)
    source = counted(source, corpus, settings.languages)
    ranges, left_out = _reachable(settings, source, settings.pins)
    return Opened(source, corpus, ranges, model_fingerprint(folder), data, left_out)


def adaptation_of(folder: Path) -> dict[str, Any] | None:
    """How a model was adapted before it is compressed, if it was. Raises UserError where that cannot be read."""
    try:
        found = json.loads((folder / ADAPTED).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"--model {folder}: {ADAPTED} is damaged ({first_line(error)}); adapt it anew") from error
    if not isinstance(found, dict) or not found.keys() >= {"method", "best_step", "role", "data"}:
        raise UserError(f"--model {folder}: {ADAPTED} is damaged (it lacks what an adaptation says); adapt it anew")
    return found


def _check_adapted(folder: Path, data: str, condition: str) -> None:
    """Raises UserError for a model that was adapted to other data than the constrained condition's."""
    adapted = adaptation_of(folder)
    if condition == CONSTRAINED and adapted is not None and adapted["data"] != data:
        raise UserError(
            f"--model {folder}: was adapted to other data than --data has, which --condition {CONSTRAINED} does not "
            "allow; adapt it to these, or give the model it was made of"
        )


def _reachable(
    settings: SearchSettings, source: Source, pins: Sequence[str]
) -> tuple[tuple[Limits, ...], tuple[str, ...]]:
    """The limits of those ranges that plans can reach, and why others cannot. Raises UserError where none can."""
    found: list[Limits] = []
    reasons: list[UserError] = []
    for size_range in settings.size_ranges(source.layout):
        limits = Limits(source.layout, size_range, source.fixed_bytes, read_pins(pins, source.layout))
        try:
            limits.check()
            found.append(limits)
        except UserError as error:
            reasons.append(error)
    if not found:
        raise reasons[0]
    return tuple(found), tuple(map(str, reasons))


def workbench_of(settings: SearchSettings, found: Opened, console: Console) -> Workbench:
    """The workbench of what was opened; what the bank has is not measured again. Says what calibration found odd."""
    bank = open_bank(
        settings.bank, settings.bank_size, model=found.model, data=found.data, languages=settings.languages
    )
    with console.status("measuring the source: moments and teacher"):
        workbench = make_workbench(found.source, found.corpus, settings.languages, bank)
    _tell(workbench.findings, console)
    return workbench


def measured_losses(workbench: Workbench, limits: Limits, console: Console) -> dict[str, Loss]:
    """What options cost by themselves, sensitivities included, which are measured where the bank has none."""
    measured = measured_sensitivities(workbench, limits.layout, console).loss
    return losses_of(limits, workbench.source.vocabulary.coverage, measured)


def _tell(findings: Sequence[str], console: Console) -> None:
    """A few lines at most."""
    for line in findings[:_MOST_FINDINGS]:
        console.print(f"calibration: {line}", markup=False)
    if len(findings) > _MOST_FINDINGS:
        console.print(f"calibration: {len(findings) - _MOST_FINDINGS} more of the kind")
