"""A whole search on a tiny random model: the bound, resuming, refusals, the summary."""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from optuna.trial import TrialState

import launch
from compress.checkpoint import folder_bytes, load_checkpoint
from corpora.roles import BUNDLED, open_corpus
from models.loading import load_source
from search.kept import kept_fidelity, made_of
from search.rungs import settled
from search.settings import FORMAT, SearchSettings
from search.study import open_study
from search.workbench import by_turns, counted, make_workbench
from space import VERSION
from space.bins import bin_range, max_size_range
from space.fill import filled
from space.genes import decode
from space.limits import Limits, smallest_plan
from space.pins import read_pins
from space.plan import plan_from_json
from tests.tiny import write_roles, write_tiny

ROOT = Path(__file__).parents[2]
TRIALS = 10


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_roles(tmp_path_factory.mktemp("corpus"), (2, 2, 2, 2))


@pytest.fixture(scope="module")
def words(model: Path, corpus: Path) -> list[str]:
    small = ("--heal-steps", "4", "--trial-heal-steps", "4", "--finalists", "2")
    return ["--bin", "2", "--model", str(model), "--data", str(corpus), *small]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, words: list[str]) -> Path:
    """The folder a finished study of TRIALS trials was run in."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert launch.main([*words, "--trials", str(TRIALS)]) == 0
    files = [file.name for file in (folder / "studies" / "bin2").glob("study.db*")]
    assert files == ["study.db"], "the log is in the file"
    return folder


@pytest.fixture
def study_copy(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished study, entered."""
    shutil.copytree(finished / "studies", tmp_path / "studies")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "studies" / "bin2"


def summary_of(study: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((study / "summary.json").read_text())
    return loaded


def trials_of(study: Path) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name=study.name, storage=f"sqlite:///{study / 'study.db'}").trials


def test_every_trial_and_every_artefact_is_inside_the_bin(finished: Path) -> None:
    study = finished / "studies" / "bin2"
    summary = summary_of(study)
    assert sum(summary["trials"].values()) == TRIALS
    assert summary["out_of_bin_trials"] == 0
    for trial in trials_of(study):
        assert summary["least_bytes"] <= trial.user_attrs["bytes"] < summary["bound_bytes"]
    assert summary["finalists"]
    for finalist in summary["finalists"]:
        folder = finished / finalist["path"]
        assert folder_bytes(folder) == finalist["bytes_on_disk"]
        assert 0.995 * finalist["bytes_predicted"] <= finalist["bytes_on_disk"] <= finalist["bytes_predicted"]
        # rate control: next to nothing of the bound stays unused
        assert finalist["bytes_on_disk"] >= 0.995 * summary["bound_bytes"]
        assert summary["least_bytes"] <= finalist["bytes_on_disk"] < summary["bound_bytes"]
        assert set(finalist["scores"]) == {"en-de", "en-zh"}
        load_checkpoint(folder)


def test_baselines_are_the_first_trials_and_reach_the_last_rung(finished: Path) -> None:
    trials = trials_of(finished / "studies" / "bin2")
    named = [trial.number for trial in trials if "baseline" in trial.user_attrs]
    assert named == list(range(len(named)))
    assert named
    assert all(trials[number].state == TrialState.COMPLETE for number in named)


def test_the_same_command_goes_on_and_changes_nothing_finished(study_copy: Path, words: list[str]) -> None:
    before = {trial.number: (trial.params, trial.values, trial.datetime_complete) for trial in trials_of(study_copy)}
    assert launch.main([*words, "--trials", str(TRIALS + 2)]) == 0
    after = {trial.number: (trial.params, trial.values, trial.datetime_complete) for trial in trials_of(study_copy)}
    assert len(after) == TRIALS + 2
    assert {number: after[number] for number in before} == before


def test_sensitivities_are_measured_once_and_the_plan_on_them_is_the_very_first_of_a_few(
    study_copy: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sum(map(on_sensitivities, trials_of(study_copy))) == 2
    monkeypatch.setattr("search.workbench.Prefixes.divergence", None)  # what sensitivities are measured by
    short = ["--trials", "2", "--finalists", "1", "--heal-steps", "1", "--trial-heal-steps", "1", "--recombined", "0"]
    assert launch.main([*words, *short, "--study", "short"]) == 0
    assert [*map(on_sensitivities, trials_of(study_copy.with_name("short")))] == [True, False]


def on_sensitivities(trial: optuna.trial.FrozenTrial) -> bool:
    return str(trial.user_attrs.get("allocator", "")).startswith("sensitivities")


def test_finalists_are_those_that_translate_best(finished: Path) -> None:
    study = finished / "studies" / "bin2"
    complete = [trial for trial in trials_of(study) if trial.state == TrialState.COMPLETE]
    rows = summary_of(study)["finalists"]
    finalists = {row["trial"] for row in rows[:2]}
    assert len(finalists) == 2
    first = [t for t in complete if "allocator" in t.user_attrs]
    worth = {trial.number: trial.values[0] for trial in settled(complete)}
    assert min(settled(first), key=lambda t: t.values[0]).number in {row["trial"] for row in rows if row["allocated"]}
    losses = sorted({json.dumps({**t.params, "heal_steps": 0}): worth[t.number] for t in complete}.values())
    assert sorted(worth[number] for number in finalists) <= losses[: len(finalists)]
    for trial in complete:
        assert 0 <= trial.values[0] <= 100
        assert trial.values[1] == trial.user_attrs["bytes"]
        assert len(trial.user_attrs["divergences"]) == len(trial.user_attrs["seconds"]) - 1


# What `launch.py fidelity` keeps, as far as a search reads it.
GATE = {
    proxy: {"proxy": proxy, "utterances": [8, 48], "survival": survival}
    for proxy, survival in (("divergence", [1.0, 0.25]), ("loss", [0.5, 0.5]), ("chrF", [1.0, 1.0]))
}
FIDELITY = {
    "plans": [{}] * 8,
    "gate": GATE["divergence"],
    "gates": list(GATE.values()),
    "table": [
        {"full": full, "proxy": proxy, "group": group, "spearman": {"value": value}}
        for full, proxy, group, value in (
            ("unhealed", "divergence, 8", "all", 0.1),
            ("healed", "weight error", "all", 0.2),
            ("healed", "divergence, 8", "all", 0.9),
            ("healed", "divergence, 8", "best quarter", None),
        )
    ],
}


def test_the_closing_table_has_the_fidelity_of_what_rungs_go_by(
    study_copy: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    kept = study_copy / "fidelity" / "fidelity.json"
    kept.parent.mkdir()
    of_this = json.dumps(FIDELITY | kept_key(study_copy))
    for text, said in (
        ("damaged", False),
        (json.dumps(FIDELITY | {"range": "", "signature": ""}), False),
        (of_this, True),
    ):
        kept.write_text(text)
        assert launch.main([*words, "--trials", str(TRIALS)]) == 0
        line = "Spearman with healed chrF on select (among the best quarter): divergence, 8 0.90 (-)"
        out = capsys.readouterr().out
        assert (line in out) == said
        sizes = "rungs: 8 and 48 utterances (the bundled model's); by divergence"
        assert (f"{sizes} 1, 0.25 of the trials go on (by the fidelity of 8 plans)" in out) == said
        assert (f"{sizes} 1, 0.12 of the trials go on (the bundled model's)" in out) != said
    assert summary_of(study_copy)["fidelity"]["spearman"] == {"divergence, 8": [0.9, None]}


def kept_key(study: Path) -> dict[str, str]:
    """What the fidelity of a study's own plans is kept under."""
    summary = summary_of(study)
    made_of = summary["signatures"]["loss"].partition("|model ")[2]
    return {"range": summary["range"], "signature": f"chrF|model {made_of}, format {FORMAT}"}


def of_one_plan(
    found: list[optuna.trial.FrozenTrial], others: list[optuna.trial.FrozenTrial]
) -> list[tuple[optuna.trial.FrozenTrial, optuna.trial.FrozenTrial]]:
    """The trials of a study whose plans another one has, and that one's trials of them."""
    known = {tuple(trial.params.items()): trial for trial in others}
    return [(trial, known[key]) for trial in found if (key := tuple(trial.params.items())) in known]


def test_a_study_is_stopped_by_the_proxy_that_its_fidelity_chose_before_it_began(
    finished: Path,
    tmp_path: Path,
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And keeps to it whatever is measured later: scores of two proxies are not ranked beside each other."""
    kept = kept_key(finished / "studies" / "bin2")
    monkeypatch.chdir(tmp_path)
    fidelity = Path("studies/bin2/fidelity/fidelity.json")
    fidelity.parent.mkdir(parents=True)
    for gate, trials in (("loss", 4), ("divergence", 6)):
        fidelity.write_text(json.dumps(FIDELITY | kept | {"gate": GATE[gate]}))
        assert launch.main([*words, "--trials", str(trials)]) == 0
        found = optuna.load_study(storage="sqlite:///studies/bin2/study.db", study_name="bin2")
        assert found.user_attrs["gate"] == "loss"
        line = "(by the fidelity it began with); by loss 0.5, 0.5 of the trials go on (by the fidelity of 8 plans)"
        assert line in capsys.readouterr().out
        assert all("|loss before|" in trial.user_attrs["signature"] for trial in found.trials)
    same = of_one_plan(found.trials, trials_of(finished / "studies" / "bin2"))
    assert same
    for here, there in same:
        assert here.user_attrs["divergences"][0] != there.user_attrs["divergences"][0]


def test_a_study_keeps_the_sizes_of_rungs_that_its_fidelity_chose_before_it_began(
    finished: Path,
    tmp_path: Path,
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its shares are the newest ones of these sizes, or the bundled model's."""
    kept = kept_key(finished / "studies" / "bin2")
    monkeypatch.chdir(tmp_path)
    fidelity = Path("studies/bin2/fidelity/fidelity.json")
    fidelity.parent.mkdir(parents=True)
    one, other = ({"proxy": "divergence", "utterances": [n, 48], "survival": [1.0, 1 / n]} for n in (1, 2))
    for chosen, gates, shares in (
        (one, [one, other], "1, 1 of the trials go on (by the fidelity of 8 plans)"),
        (other, [one | {"survival": [1.0, 0.25]}, other], "1, 0.25 of the trials go on (by the fidelity of 8 plans)"),
        (other, [other], "1, 0.12 of the trials go on (the bundled model's)"),
    ):
        fidelity.write_text(json.dumps({**FIDELITY, **kept, "gate": chosen, "gates": gates}))
        assert launch.main([*words, "--trials", "3"]) == 0
        line = f"rungs: 1 and 48 utterances (by the fidelity it began with); by divergence {shares}"
        assert line in capsys.readouterr().out
    same = of_one_plan(trials_of(tmp_path / "studies" / "bin2"), trials_of(finished / "studies" / "bin2"))
    assert len(same) == 3
    for here, there in same:
        assert "|(1, 48) utterances of the proxy role" in here.user_attrs["signature"]
        assert here.user_attrs["divergences"][0] != there.user_attrs["divergences"][0]
        assert here.user_attrs["divergences"][1:] == pytest.approx(there.user_attrs["divergences"][1:], rel=1e-4)


@pytest.mark.parametrize(
    "wrong",
    [
        {"gate": "divergence"},
        {"gates": None},
        {"gate": GATE["loss"] | {"proxy": "bleu"}},
        {"gate": GATE["loss"] | {"survival": [1.0, 0.0]}},
        {"gate": GATE["loss"] | {"survival": [1.0]}},
        {"gate": GATE["loss"] | {"utterances": [48, 48]}},
        {"gate": GATE["loss"] | {"utterances": [8, 16, 48]}},
        {"gates": [GATE["loss"] | {"utterances": [8, 24]}]},
    ],
)
def test_a_fidelity_whose_gates_are_none_is_not_read(tmp_path: Path, wrong: dict[str, Any]) -> None:
    shared = {"model": "m", "data": "d"}
    here = {"range": "bin 2", "signature": made_of("m", "d")}
    file = tmp_path / "fidelity" / "fidelity.json"
    file.parent.mkdir()
    file.write_text(json.dumps(FIDELITY | here))
    assert kept_fidelity(tmp_path, "bin 2", shared) is not None
    file.write_text(json.dumps(FIDELITY | here | wrong))
    assert kept_fidelity(tmp_path, "bin 2", shared) is None


def test_same_seed_gives_the_same_plans(
    finished: Path, tmp_path: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert launch.main([*words, "--trials", str(TRIALS)]) == 0
    first, second = trials_of(finished / "studies" / "bin2"), trials_of(tmp_path / "studies" / "bin2")
    assert [trial.params for trial in first] == [trial.params for trial in second]
    assert [trial.values for trial in first] == [trial.values for trial in second]


def test_baselines_an_earlier_total_had_no_room_for_come_later(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    study = tmp_path / "studies" / "bin2"
    assert launch.main([*words, "--trials", "1", "--finalists", "1"]) == 0
    assert [*map(on_sensitivities, trials_of(study))] == [True]
    assert "baseline: none tried" in capsys.readouterr().out
    assert launch.main([*words, "--trials", "4", "--finalists", "1"]) == 0
    named = [trial.user_attrs["baseline"] for trial in trials_of(study) if "baseline" in trial.user_attrs]
    assert len(named) == len(set(named)) > 1


def test_results_of_other_plans_in_the_folder_are_not_reported(
    study_copy: Path, words: list[str], model: Path, corpus: Path, tmp_path: Path
) -> None:
    source = counted(load_source(model), open_corpus(corpus), ("de", "zh"))
    limits = Limits(source.layout, bin_range(2, source.layout.source_bytes), source.fixed_bytes)
    (study_copy / "study.db").unlink()
    assert launch.main([*words, "--trials", "3", "--seed", "5"]) == 0
    for finalist in summary_of(study_copy)["finalists"]:
        trial = trials_of(study_copy)[finalist["trial"]]
        plan = plan_from_json((tmp_path / finalist["path"] / "plan.json").read_text())
        tried = decode(trial.params, source.layout)
        assert replace(plan, heal=tried.heal) == filled(tried, limits)


def test_a_study_says_what_it_is_of(finished: Path) -> None:
    (study,) = optuna.get_all_study_names(f"sqlite:///{finished / 'studies/bin2/study.db'}")
    found = optuna.load_study(study_name=study, storage=f"sqlite:///{finished / 'studies/bin2/study.db'}").user_attrs
    assert found["tightfit"] == VERSION
    assert found["settings"]["format"] == FORMAT
    assert all(re.fullmatch("[0-9a-f]{16}", found["settings"][part]) for part in ("model", "data", "space", "bank"))
    assert (finished / "studies/bank" / found["settings"]["bank"]).is_dir()


def test_other_settings_are_refused_with_the_difference_named(
    study_copy: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    database = (study_copy / "study.db").read_bytes()
    assert launch.main([*words, "--trials", "9", "--seed", "1"]) == 2
    assert "seed was 0, now 1" in capsys.readouterr().err
    assert (study_copy / "study.db").read_bytes() == database


def test_a_second_driver_is_told_of_the_first(
    study_copy: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with (study_copy / "driver.lock").open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert launch.main([*words, "--trials", "9"]) == 2
    assert "driven by process" in capsys.readouterr().err


def test_a_locked_database_is_one_line(study_copy: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    connection = sqlite3.connect(study_copy / "study.db")
    connection.execute("BEGIN EXCLUSIVE")
    assert launch.main([*words, "--trials", "9"]) == 2
    connection.close()
    error = capsys.readouterr().err
    assert "database is locked" in error
    assert error.count("\n") == 1


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_the_log_of_a_study_that_was_removed_is_none_of_the_next_one(tmp_path: Path) -> None:
    settings = SearchSettings(study="new", trials=1, bin=1, root=tmp_path)
    settings.folder.mkdir()
    (settings.folder / "study.db-wal").write_bytes(b"left")
    with open_study(settings, {"seed": 0}) as study:
        study.add_trial(optuna.trial.create_trial(values=[1.0, 2.0]))
    assert [file.name for file in settings.folder.glob("study.db*")] == ["study.db"]
    with open_study(settings, {"seed": 0}) as study:
        assert [trial.values for trial in study.trials] == [[1.0, 2.0]]


def test_a_kill_loses_no_finished_trial_and_changes_no_plan(finished: Path, tmp_path: Path, words: list[str]) -> None:
    command = [sys.executable, str(ROOT / "launch.py"), *words, "--trials", str(TRIALS)]
    study = tmp_path / "studies" / "bin2"
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and _finished_trials(study) < 3:
        assert process.poll() is None, "the search ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    killed = {trial.number: trial for trial in trials_of(study)}
    done = {number: trial for number, trial in killed.items() if trial.state.is_finished()}
    assert len(done) >= 3
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    trials = trials_of(study)
    assert len(trials) == TRIALS
    assert all(trial.state.is_finished() for trial in trials)
    for number, trial in done.items():
        assert trials[number].datetime_complete == trial.datetime_complete
    assert [trial.params for trial in trials] == [trial.params for trial in trials_of(finished / "studies" / "bin2")]


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_goes_on_to_the_finalists_and_twice_leaves(tmp_path: Path, words: list[str], times: int) -> None:
    command = [sys.executable, str(ROOT / "launch.py"), *words, "--trials", "19", "--finalists", "1"]
    study = tmp_path / "studies" / "bin2"
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and _finished_trials(study) < 3:
        assert process.poll() is None
    assert process.stderr is not None
    process.send_signal(signal.SIGINT)
    assert "Ctrl-C again leaves at once" in process.stderr.readline()
    if times == 2:
        process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=120)
    assert process.returncode == (130 if times == 2 else 0), complaint
    trials = trials_of(study)
    assert 3 <= sum(trial.state.is_finished() for trial in trials) < 19
    if times == 1:
        assert all(trial.state.is_finished() for trial in trials if trial.state != TrialState.WAITING)
        assert summary_of(study)["champion"]["trial"] in {trial.number for trial in trials}
    else:
        assert "stopped; the same command goes on" in complaint
        assert not (study / "summary.json").exists()


def test_patience_and_hours_end_a_search(
    study_copy: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = len(trials_of(study_copy))
    assert launch.main([*words, "--trials", "19", "--hours", "1e-9"]) == 0
    assert "1e-09 hours are over" in capsys.readouterr().out
    assert len([trial for trial in trials_of(study_copy) if trial.state.is_finished()]) == before
    assert launch.main([*words, "--trials", "19", "--patience", "1"]) == 0
    assert "no better front in 1 trials" in capsys.readouterr().out
    ended = [trial for trial in trials_of(study_copy) if trial.state.is_finished()]
    assert before < len(ended) < 19


def _finished_trials(study: Path) -> int:
    if not (study / "study.db").exists():
        return 0
    try:
        with sqlite3.connect(f"file:{study / 'study.db'}?mode=ro", uri=True) as connection:
            rows = connection.execute("SELECT COUNT(*) FROM trials WHERE state IN ('COMPLETE', 'PRUNED')").fetchone()
    except sqlite3.OperationalError:
        return 0
    finally:
        time.sleep(0.05)
    return int(rows[0])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--bin", "9"], "no such bin"),
        (["--bin", "3", "--trials", "0"], "--trials 0"),
        (["--bin", "3", "--seed", "-1"], "--seed -1"),
        (["--bin", "3", "--finalists", "0"], "--finalists 0"),
        (["--bin", "3", "--recombined", "-1"], "--recombined -1"),
        (["--bin", "3", "--heal-rows", "0"], "--heal-rows 0"),
        (["--bin", "3", "--trial-heal-steps", "-1"], "--trial-heal-steps -1"),
        (["--bin", "3", "--bank-size", "much"], "--bank-size 'much'"),
        (["bank", "--bank-size", "0"], "nothing is that small"),
        (["--bin", "9", "--model", "no-such/model"], "no such bin"),
        (["--bin", "3", "--model", "/no/such/model"], "no such folder"),
        (["--bin", "3", "--langs", "en-fr"], "--langs en-fr"),
        (["--bin", "3", "--data", "/no/such/data"], "/no/such/data"),
        (["--bin", "3", "--sampler", "oracle"], "--sampler oracle"),
        (["--bin", "3", "--hours", "0"], "--hours 0: more than 0"),
        (["--bin", "3", "--patience", "0"], "--patience 0: at least 1 trial"),
        (["--bin", "3", "--workers", "0"], "--workers 0: from 1"),
        (["--bin", "3", "--ray-address", "auto"], "--ray-address: is for --engine ray"),
        (["--bin", "3", "--worker-cpus", "2"], "--worker-cpus: is for --engine ray"),
        (["--bin", "3", "--engine", "ray", "--worker-cpus", "0"], "--worker-cpus 0: a worker needs at least 1"),
        (["--bin", "3", "--engine", "ray", "--worker-gpus", "1.5"], "--worker-gpus 1.5: a share of one up to 1"),
        (
            ["--bin", "3", "--engine", "ray", "--worker-gpus", "1", "--device", "cpu"],
            "--worker-gpus 1: the driver of the study computes on cpu",
        ),
        (["--bin", "2", "--engine", "ray", "--ray-address", "nowhere"], "--ray-address nowhere: Invalid address"),
        (["--bin", "2", "--engine", "ray", "--ray-address", "127.0.0.1:1"], "127.0.0.1:1: Connection refused"),
        (["--bin", "3", "--study", "../escape"], "one folder name"),
        (["--max-size", "1kB"], "nothing fits"),
        (["--max-size", "huge"], "not a size"),
        (["size", "/no/such/folder"], "no such folder"),
        (["evaluate", "/no/such/folder"], "no such folder"),
        (["evaluate", ".", "--langs", "en-fr"], "--langs en-fr"),
        (["size", "."], "no config.json"),
    ],
)
def test_bad_input_is_one_line_and_touches_no_study(
    words: list[str],
    message: str,
    model: Path,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    tmp_path: Path = request.getfixturevalue("tmp_path")
    request.getfixturevalue("monkeypatch").chdir(tmp_path)
    if words[0].startswith("--") and "--model" not in words:
        words = [*words, "--model", str(model)]
    assert launch.main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("tightfit: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "studies").exists()


def test_where_ray_is_not_installed_one_line_says_how_to(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert launch.main(["--bin", "3", "--engine", "ray"]) == 2
    assert capsys.readouterr().err == "tightfit: --engine ray: Ray is not installed; pip install 'ray>=2.60'\n"


@pytest.mark.parametrize(
    "url", ["nonsense", "sqlite:////no/such/folder/x.db", "oracle9://x/y", "postgresql://nobody@127.0.0.1:1/trials"]
)
def test_a_wrong_storage_is_one_line(
    url: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert launch.main([*words, "--trials", "1", "--storage", url]) == 2
    error = capsys.readouterr().err
    assert url in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("me:secret@127.0.0.1:1/trials", "me:***@127.0.0.1:1/trials"),
        ("me:secret@host:port/trials", "me:***@host:port/trials"),
        ("me:secret@secret@127.0.0.1:1/trials", "me:***@127.0.0.1:1/trials"),
        ("me:an@other:secret@127.0.0.1:1/trials", "me:***@127.0.0.1:1/trials"),
        ("me@home:secret@127.0.0.1:1/trials", "me@home:***@127.0.0.1:1/trials"),
        ("127.0.0.1:1/trials?user=me&password=secret", "127.0.0.1:1/trials?user=me&password=***"),
    ],
)
def test_a_password_is_not_printed(
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    url: str,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert launch.main([*words, "--trials", "1", "--storage", f"postgresql://{url}"]) == 2
    error = capsys.readouterr().err
    assert f"postgresql://{said}" in error
    assert "secret" not in error
    assert error.count("\n") == 1


def test_a_talk_in_two_roles_and_a_missing_reference_are_one_line(
    model: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(corpus, tmp_path / "data")
    command = ["--bin", "2", "--model", str(model), "--data", str(tmp_path / "data")]
    shutil.copy(corpus / "proxy.parquet", tmp_path / "data" / "report.parquet")
    assert launch.main(command) == 2
    talk = min(pq.read_table(corpus / "proxy.parquet")["talk"].to_pylist())
    assert f"'{talk}' is in proxy and in report" in capsys.readouterr().err
    rows = pq.read_table(corpus / "report.parquet").to_pylist()
    rows[1]["de"] = None
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data" / "report.parquet")
    assert launch.main(command) == 2
    assert f"{rows[1]['id']!r} lacks" in capsys.readouterr().err
    assert not (tmp_path / "studies").exists()


def _as_json(text: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(text)


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("config.json", _as_json("[]"), "model type None"),
        ("config.json", _as_json('{"model_type": "bert"}'), "model type 'bert'"),
        ("config.json", _as_json('{"model_type": "qwen2_audio", "text_config": 0}'), "config.json"),
        ("config.json", Path.unlink, "no config.json"),
        ("tokenizer.json", _as_json("[]"), "tokenizer.json is damaged"),
        ("tokenizer.json", Path.unlink, "tokenizer"),
        ("processor_config.json", _as_json("[]"), "processor_config.json is damaged"),
        ("generation_config.json", _as_json("[]"), "generation_config.json"),
        ("plan.json", _as_json("{}"), "plan.json is damaged"),
        ("plan.json", lambda path: path.write_bytes(b"\xff\xfe"), "plan.json"),
        ("model.safetensors", Path.unlink, "model.safetensors"),
        ("model.safetensors", lambda path: path.write_bytes(path.read_bytes()[:5000]), "model.safetensors"),
    ],
)
def test_a_damaged_checkpoint_is_one_line(
    study_copy: Path, capsys: pytest.CaptureFixture[str], *, file: str, damage: Callable[[Path], object], message: str
) -> None:
    finished = tmp_path = study_copy.parents[1]
    champion = finished / summary_of(finished / "studies" / "bin2")["champion"]["path"]
    shutil.copytree(champion, tmp_path / "model")
    damage(tmp_path / "model" / file)
    assert launch.main(["evaluate", str(tmp_path / "model")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("tightfit: ")
    assert error.count("\n") == 1
    if file in ("config.json", "plan.json", "model.safetensors"):
        assert launch.main(["size", str(tmp_path / "model")]) == 2


def test_size_and_evaluate_print_tables_and_json(
    finished: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = summary_of(finished / "studies" / "bin2")
    champion = str(finished / summary["champion"]["path"])
    assert launch.main(["size", champion, "--json"]) == 0
    size = json.loads(capsys.readouterr().out)
    assert size["bytes"] == sum(size["parts"].values()) == summary["champion"]["bytes_on_disk"]
    assert size["bin"] == 2
    assert launch.main(["size", champion]) == 0
    assert "bin 2" in capsys.readouterr().out
    assert launch.main(["evaluate", champion, "--data", str(corpus), "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)["scores"]
    for direction, row in summary["champion"]["scores"].items():
        assert {metric: scores[direction][metric] for metric in row} == row
    assert launch.main(["evaluate", champion, "--data", str(corpus), "--batch-size", "0"]) == 2


def test_unreadable_data_and_a_model_without_weights_are_one_line(
    model: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(corpus, tmp_path / "data")
    (tmp_path / "data" / "calibrate.parquet").write_bytes(b"this is no parquet file")
    assert launch.main(["--bin", "2", "--model", str(model), "--data", str(tmp_path / "data")]) == 2
    assert "calibrate.parquet" in capsys.readouterr().err
    shutil.copytree(model, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    assert launch.main(["--bin", "2", "--model", str(tmp_path / "model")]) == 2
    assert "no safetensors weights" in capsys.readouterr().err
    assert not (tmp_path / "studies").exists()


def test_a_size_that_only_a_trimmed_vocabulary_fits_is_searched(
    model: Path, words: list[str], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = counted(load_source(model), open_corpus(corpus), ("de", "zh"))
    whole = Limits(
        source.layout, max_size_range("1MB"), source.fixed_bytes, read_pins(["vocabulary:whole"], source.layout)
    )
    size = f"{whole.bytes_of(smallest_plan(whole))}B"
    assert launch.main(["--max-size", size, "--study", "small", *words[2:], "--trials", "2", "--heal-steps", "0"]) == 0
    summary = summary_of(tmp_path / "studies" / "small")
    assert summary["champion"]["bytes_on_disk"] < summary["bound_bytes"]
    assert plan_from_json((tmp_path / summary["champion"]["path"] / "plan.json").read_text()).vocabulary < 331


def test_the_report_role_is_not_opened_for_a_workbench(model: Path, corpus: Path) -> None:
    data = open_corpus(corpus)
    make_workbench(load_source(model), data, ("de",))
    assert set(data.opened) == {"calibrate", "proxy", "select"}


def test_the_first_proxy_utterances_hear_every_talk() -> None:
    examples = open_corpus(BUNDLED).examples("proxy")
    talks = {example.talk for example in examples}
    assert len(talks) > 1
    assert {example.talk for example in by_turns(examples)[: len(talks)]} == talks
    assert sorted(x.id for x in by_turns(examples)) == sorted(x.id for x in examples)
