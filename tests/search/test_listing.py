"""The list of a folder's studies: how they stand, who is at them, and why one cannot be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial

import launch
from search.driving import driver_lock
from search.settings import SearchSettings
from search.study import ASKED, open_study

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

EDGES = {"name": "bin 3", "least_bytes": 5, "bound_bytes": 10}


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "studies"


def settings_of(name: str, root: Path) -> SearchSettings:
    return SearchSettings(study=name, trials=9, bin=3, root=root)


def make_study(root: Path, name: str, losses: list[float], edges: object = EDGES) -> Path:
    """Of one complete trial for each loss, and a pruned one."""
    settings = settings_of(name, root)
    settings.folder.mkdir(parents=True)
    with open_study(settings, {"range": edges}) as study:
        study.set_user_attr(ASKED, settings.trials)
        for loss in losses:
            study.add_trial(create_trial(values=[loss, 7.0]))
        study.add_trial(create_trial(state=TrialState.PRUNED))
    return settings.folder


def finish(folder: Path, champion: int | None, front: list[int]) -> None:
    summary = {
        "range": "bin 3",
        "champion": None if champion is None else {"trial": champion},
        "front": [{"trial": number} for number in front],
        "trials": {"complete": 2, "pruned": 1, "failed": 0},
    }
    (folder / "summary.json").write_text(json.dumps(summary))


def listed(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, dict[str, Any]]:
    assert launch.main(["studies", "--json", *words]) == 0
    return {row["study"]: row for row in json.loads(capsys.readouterr().out)["studies"]}


def test_rows_say_how_studies_stand(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_study(root, "begun", [])
    finish(make_study(root, "done", [20.5, 12.25]), 1, [])
    finish(make_study(root, "every", [20.0, 12.0], [EDGES, EDGES]), None, [0, 1])
    (root / "bank" / "9bd5").mkdir(parents=True)
    (root / "notes").mkdir()
    (root / "file").write_text("no study")
    with driver_lock(root / "begun", None):
        rows = listed(capsys)
        assert launch.main(["studies"]) == 0
        shown = capsys.readouterr().out
    assert list(rows) == ["begun", "done", "every"]
    begun, done, every = rows.values()
    assert begun["driver"].startswith("process ")
    assert (begun["ended"], begun["complete"], begun["asked"], begun["best_chrf"]) == (1, 0, 9, None)
    assert done["driver"] is None
    assert (done["range"], done["champion"], done["best_chrf"], done["ended"]) == ("bin 3", 1, 87.75, 3)
    assert (every["range"], every["front"]) == ("all sizes", [0, 1])
    assert all("reason" not in row for row in rows.values())
    for words in ("under way: process", "champion: trial 1", "front: trials 0, 1", "3 / 2 / 9", "87.75"):
        assert all(word in shown for word in words.split())


def test_looking_keeps_no_driver_out(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_study(root, "begun", [])
    for _ in range(2):
        with driver_lock(folder, None):
            assert listed(capsys)["begun"]["driver"]
        assert listed(capsys)["begun"]["driver"] is None


def test_a_study_that_cannot_be_read_has_the_reason_in_its_row(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_study(root, "good", [30.0])
    for name, content in (("damaged", b"this is no database" * 100), ("empty", b"")):
        (root / name).mkdir()
        (root / name / "study.db").write_bytes(content)
    (make_study(root, "summary", [30.0]) / "summary.json").write_text("{")
    finish(make_study(root, "elsewhere", []), 0, [])
    (root / "elsewhere" / "study.db").unlink()
    (root / "foreign").mkdir()
    optuna.create_study(study_name="foreign", storage=f"sqlite:///{root / 'foreign' / 'study.db'}")
    rows = listed(capsys)
    reasons = {name: row["reason"] for name, row in rows.items() if "reason" in row}
    assert set(reasons) == {"damaged", "empty", "summary", "elsewhere", "foreign"}
    assert "not a database" in reasons["damaged"]
    assert "no such table" in reasons["empty"]
    assert (root / "empty" / "study.db").read_bytes() == b""
    assert "summary.json is damaged" in reasons["summary"]
    assert "--storage" in reasons["elsewhere"]
    assert rows["elsewhere"]["champion"] == 0
    assert reasons["foreign"] == "it was not made by tightfit"
    assert launch.main(["studies"]) == 0
    assert "tightfit" in capsys.readouterr().out


def test_no_folder_and_no_studies(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.main(["studies"]) == 2
    error = capsys.readouterr().err
    assert (
        error == "tightfit: --root studies: no such folder; run the command where a search was run, or give another\n"
    )
    root.mkdir()
    assert launch.main(["studies"]) == 0
    assert capsys.readouterr().out == "no studies in studies\n"
