"""``launch.py studies``: how the studies of a folder stand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from search.driving import LOCK, driver_of
from search.finals import SUMMARY
from search.study import ASKED, FILE, JOURNAL_FILE, SETTINGS, stored_study
from space.errors import UserError, first_line

_MARKS = (FILE, JOURNAL_FILE, LOCK, SUMMARY)
_CHANGING = (f"{FILE}-wal",)


def list_studies(root: Path) -> dict[str, Any]:
    """The studies of a folder by name, those that cannot be read with the `reason`.

    Raises UserError where there is no such folder.
    """
    if not root.is_dir():
        raise UserError(f"--root {root}: no such folder; run the command where a search was run, or give another")
    folders = sorted(one for one in root.iterdir() if any((one / mark).is_file() for mark in _MARKS))
    return {"root": str(root), "studies": [_row(folder) for folder in folders]}


def _row(folder: Path) -> dict[str, Any]:
    row: dict[str, Any] = {"study": folder.name}
    try:
        changes = [(folder / name).stat().st_mtime for name in (*_MARKS, *_CHANGING) if (folder / name).is_file()]
        row["changed"] = datetime.fromtimestamp(max(changes)).astimezone().isoformat(timespec="seconds")
        row["driver"] = driver_of(folder)
        row |= _summary(folder / SUMMARY)
        journal = folder / JOURNAL_FILE
        if not (folder / FILE).is_file() and not journal.is_file():
            return row | {"reason": f"no {FILE}: its trials are in the storage that --storage named"}
        url = None if (folder / FILE).is_file() else str(journal)
        with stored_study(folder.parent, folder.name, url, "--study") as study:
            row |= _trials(study)
    except (UserError, OSError) as error:
        row["reason"] = first_line(error)
    return row


def _summary(path: Path) -> dict[str, Any]:
    """What a search that came to its end says; nothing of one that did not. Raises UserError for a damaged file."""
    if not path.is_file():
        return {}
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        champion, counts = summary["champion"], summary["trials"]
        return {
            "range": summary["range"],
            "champion": champion["trial"] if champion else None,
            "front": [row["trial"] for row in summary.get("front", [])],
            "ended": sum(counts.values()),
            "complete": counts["complete"],
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path.name} is damaged ({first_line(error)})") from error


def _trials(study: optuna.Study) -> dict[str, Any]:
    """Raises UserError for a study that is none of a search's."""
    settings = study.user_attrs.get(SETTINGS)
    if not isinstance(settings, Mapping) or "range" not in settings:
        raise UserError("it was not made by tightfit")
    trials = study.get_trials(deepcopy=False)
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    return {
        "range": _named(settings["range"]),
        "ended": sum(trial.state.is_finished() for trial in trials),
        "complete": len(complete),
        "asked": study.user_attrs.get(ASKED),
        "best_chrf": round(100 - min(trial.values[0] for trial in complete), 2) if complete else None,
    }


def _named(edges: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> str:
    """Of one range its name."""
    return str(edges["name"]) if isinstance(edges, Mapping) else "all sizes"
