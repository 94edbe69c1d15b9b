"""Notes, artifacts and the dashboard that shows them, over a real study of a tiny model and the dashboard's own API."""

from __future__ import annotations

import csv
import io
import json
import shutil
import socket
import sqlite3
import threading
import urllib.request
import xml.etree.ElementTree as ET
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
import soundfile
from optuna.trial import TrialState
from optuna_dashboard import get_note
from sqlalchemy.pool import NullPool

import launch
from search.artifacts import FOLDER, kept_artifacts
from search.dashboard import DashboardSettings, dashboard_server
from search.study import OBJECTIVES
from space.plan import plan_from_json
from tests.tiny import write_roles, write_tiny

TRIALS = 12

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("given")
    (folder / "model").mkdir()
    (folder / "data").mkdir()
    given = ["--model", str(write_tiny(folder / "model")), "--data", str(write_roles(folder / "data", (2, 2, 2, 2)))]
    small = ["--heal-steps", "2", "--trial-heal-steps", "2", "--finalists", "1", "--recombined", "0"]
    return ["--bin", "2", "--trials", str(TRIALS), *given, *small]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, command: list[str]) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert launch.main(command) == 0
    return folder / "studies" / "bin2"


@pytest.fixture
def study_copy(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(finished.parent, tmp_path / "studies")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "studies" / "bin2"


Get = Callable[[str], bytes]


@pytest.fixture
def get(finished: Path) -> Any:
    """Asks the dashboard of the finished study over HTTP."""
    with dashboard_server(DashboardSettings("bin2", port=0, root=finished.parent)) as (server, address):
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        base = address.partition("/dashboard")[0]

        def asked(path: str) -> bytes:
            with urllib.request.urlopen(f"{base}{path}") as answer:  # noqa: S310
                body: bytes = answer.read()
                return body

        assert b"<html" in asked(address.removeprefix(base)).lower()
        yield asked
        server.shutdown()
        thread.join()


def detail(get: Get) -> dict[str, Any]:
    (study,) = json.loads(get("/api/studies"))["study_summaries"]
    found: dict[str, Any] = json.loads(get(f"/api/studies/{study['study_id']}"))
    return found


def files(get: Get, trial: dict[str, Any]) -> dict[str, bytes]:
    at = f"/artifacts/{trial['study_id']}/{trial['trial_id']}"
    return {one["filename"]: get(f"{at}/{one['artifact_id']}") for one in trial["artifacts"]}


def loaded(study: Path) -> optuna.Study:
    """The study over connections that end with each use: SQLite's files beside its own stay while one is open."""
    url = f"sqlite:///{study / 'study.db'}"
    storage = optuna.storages.RDBStorage(url, engine_kwargs={"poolclass": NullPool})
    return optuna.load_study(study_name=study.name, storage=storage)


def change(study: Path, statement: str) -> None:
    with closing(sqlite3.connect(study / "study.db")) as connection, connection:
        connection.execute(statement)


def test_the_dashboard_has_names_notes_and_feasible_trials(get: Get) -> None:
    found = detail(get)
    assert found["objective_names"] == list(OBJECTIVES)
    assert f"of {TRIALS} asked for" in found["note"]["body"]
    assert "### Finalists" in found["note"]["body"]
    assert {trial["state"] for trial in found["trials"]} == {"Complete", "Pruned"}
    for trial in found["trials"]:
        # what its plots take for feasible: no constraint above 0
        assert all(value <= 0 for value in trial["constraints"])
        note = trial["note"]["body"]
        if trial["state"] == "Complete":
            assert note.startswith(
                f"**Complete: chrF {100 - trial['values'][0]:.1f} in {trial['values'][1]:,.0f} bytes"
            )
        else:
            assert note.startswith("**Stopped after ")
        for row in ("made by", "bytes", "encoder", "decoder", "mean bits", "divergence", "seconds"):
            assert f"| {row} | " in note


def test_artifacts_are_plans_pictures_and_what_finalists_make_of_speech(get: Get, finished: Path) -> None:
    found, champion = detail(get), json.loads((finished / "summary.json").read_text())["champion"]
    for trial in found["trials"]:
        kept = files(get, trial)
        assert set(kept) >= ({"plan.json", "plan.svg"} if trial["state"] == "Complete" else set())
        if trial["state"] == "Complete":
            plan = plan_from_json(kept["plan.json"].decode())
            assert ET.fromstring(kept["plan.svg"]).tag.endswith("svg")  # noqa: S314
            assert all(str(layer.ffn.kept) in kept["plan.svg"].decode() for layer in plan.decoder if layer.ffn.kept)
    (best,) = [trial for trial in found["trials"] if trial["number"] == champion["trial"]]
    kept = files(get, best)
    rows = list(csv.DictReader(io.StringIO(kept["translations.csv"].decode())))
    assert {row["direction"] for row in rows} == {"en-de", "en-zh"}
    assert all(row["reference"] for row in rows)
    for place in range(len(rows) // 2):
        samples, rate = soundfile.read(io.BytesIO(kept[f"speech-{place + 1}.flac"]))
        assert rate == 16_000
        assert len(samples) > 0
    assert "### Champion" in best["note"]["body"]
    assert rows[0]["reference"] in best["note"]["body"]


def test_notes_are_those_of_optuna_dashboard(finished: Path) -> None:
    study = loaded(finished)
    assert get_note(study).startswith("## bin2")
    note = get_note(optuna.Trial(study, study.trials[0]._trial_id))
    assert note.startswith("**Complete: chrF ")


def test_the_same_command_adds_missing_notes_and_keeps_others(study_copy: Path, command: list[str]) -> None:
    study = loaded(study_copy)
    before = study._storage.get_study_system_attrs(study._study_id)
    first, second = (trial._trial_id for trial in study.trials[:2])
    study._storage.set_study_system_attr(study._study_id, f"dashboard:{second}:note_str:0", "my own")
    # as a study has it whose notes are from before there were any, or whose driver died before the note
    change(study_copy, f"DELETE FROM study_system_attributes WHERE key LIKE 'dashboard:{first}:note%'")  # noqa: S608
    assert launch.main([*command, "--finalists", "1"]) == 0
    after = loaded(study_copy)._storage.get_study_system_attrs(study._study_id)
    assert set(after) == set(before)
    assert after[f"dashboard:{first}:note_str:0"].startswith("**Complete")
    if "### " not in before[f"dashboard:{second}:note_str:0"]:  # a finalist's is written anew
        assert after[f"dashboard:{second}:note_str:0"] == "my own"


def test_a_search_goes_on_where_artifacts_cannot_be_kept(
    study_copy: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(study_copy / FOLDER)
    (study_copy / FOLDER).write_text("in the way")
    assert launch.main([*command, "--trials", str(TRIALS + 8)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert out.count("artifacts are not kept (") == 1
    trials = loaded(study_copy).trials
    assert sum(trial.state == TrialState.COMPLETE for trial in trials[TRIALS:]) >= 1
    assert len(trials) == TRIALS + 8
    (study_copy / FOLDER).unlink()
    assert launch.main([*command, "--trials", str(TRIALS + 8)]) == 0
    kept = kept_artifacts(loaded(study_copy), study_copy)
    complete = {trial._trial_id for trial in trials if trial.state == TrialState.COMPLETE}
    assert kept >= {(one, name) for one in complete for name in ("plan.json", "plan.svg")}


def test_a_search_goes_on_where_notes_cannot_be_kept(
    study_copy: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    trigger = "CREATE TRIGGER full BEFORE INSERT ON study_system_attributes BEGIN SELECT no_room(); END"
    change(study_copy, trigger)
    assert launch.main([*command, "--trials", str(TRIALS + 2)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert out.count("notes are not kept (") == 1
    assert "no_room" in out
    assert len(loaded(study_copy).trials) == TRIALS + 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--study", "nowhere"], "no study studies/nowhere/study.db"),
        (["--study", "nowhere", "--storage", "sqlite:///studies/bin2/study.db"], "no study of this name in sqlite:///"),
        (["--study", "bin2", "--storage", "sqlite:///absent.db"], "no file absent.db"),
        (["--study", "bin2", "--storage", "nonsense"], "--storage nonsense"),
        (["--study", "bin2", "--port", "70000"], "--port 70000"),
        (["--study", "bin2", "--host", "no.such.host.invalid"], "--host no.such.host.invalid"),
    ],
)
def test_bad_input_is_one_line(
    study_copy: Path, capsys: pytest.CaptureFixture[str], *, words: list[str], message: str
) -> None:
    before = sorted(path.name for path in study_copy.parents[1].rglob("*"))
    assert launch.main(["dashboard", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("tightfit: ")
    assert error.count("\n") == 1
    assert sorted(path.name for path in study_copy.parents[1].rglob("*")) == before


@pytest.mark.usefixtures("study_copy")
def test_a_port_that_is_taken_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert launch.main(["dashboard", "--study", "bin2", "--port", port]) == 2
    error = capsys.readouterr().err
    assert f"--port {port}: Address already in use" in error
    assert error.count("\n") == 1
