"""How finalists stand beside each other: leads on a role, report if no other is said, each with both paired tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from corpora.roles import DIRECTIONS
from scoring.metrics import metrics_of
from scoring.significance import Lead, lead, lead_of_segments
from search.exam import Exam


def leads_of(
    champion: Mapping[str, Any], others: Sequence[Mapping[str, Any]], exam: Exam, role: str = "report"
) -> list[dict[str, Any]]:
    """A row for every other result and direction: the champion's leads by metric, with intervals and p-values.

    COMET's are there where both have it.
    """
    references = exam.references(role)
    return [
        {
            "over": other["trial"],
            "direction": direction,
            "leads": {
                name: _rounded(found) for name, found in _leads(champion, other, references[direction], direction)
            },
        }
        for other in others
        for direction in exam.directions
    ]


def _leads(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], references: Sequence[str], direction: str
) -> list[tuple[str, Lead]]:
    first, second = (one["translations"][direction] for one in (ours, theirs))
    found = [
        (name, lead(metric, first, second, references)) for name, metric in metrics_of(DIRECTIONS[direction]).items()
    ]
    segments = [one["scores"][direction].get("segments") for one in (ours, theirs)]
    if all(segments):
        found.append(("COMET", lead_of_segments(*segments)))
    return found


def _rounded(found: Lead) -> dict[str, float]:
    return {name: round(value, 4) for name, value in asdict(found).items()}
