"""Disks that are full, read-only or damaged: one line, nothing that had ended is lost, and how the study goes on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

import launch
from compress.checkpoint import folder_bytes
from space.files import sweep

TRIALS = 6
SMALL = ["--heal-steps", "10", "--heal-rows", "4", "--trial-heal-steps", "2", "--recombined", "1", "--finalists", "1"]
STUDY = Path("studies/bin2")

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


@pytest.fixture(scope="module")
def command(words: list[str]) -> list[str]:
    return ["--bin", "2", *words, *SMALL, "--trials", str(TRIALS)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, command: list[str]) -> Path:
    """Where a finished study and its bank are."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert launch.main(command) == 0
    return folder


@pytest.fixture
def study(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished study, entered."""
    shutil.copytree(finished / "studies", tmp_path / "studies")
    monkeypatch.chdir(tmp_path)
    return tmp_path / STUDY


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A disk of 16 MB, entered."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", folder], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("nothing can be mounted here")
    monkeypatch.chdir(folder)
    yield folder
    monkeypatch.undo()
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk: Path, free_bytes: int) -> None:
    """Leaves so many bytes."""
    ballast = disk / "ballast"
    ballast.unlink(missing_ok=True)
    ballast.write_bytes(b"\1" * (shutil.disk_usage(disk).free - free_bytes))


def ended(folder: Path) -> dict[int, Any]:
    file = folder / STUDY / "study.db"
    if not file.exists() or not file.stat().st_size:
        return {}
    try:
        trials = optuna.load_study(study_name=STUDY.name, storage=f"sqlite:///{file}").trials
    except KeyError:
        return {}
    return {one.number: (one.params, one.values, one.user_attrs) for one in trials if one.state.is_finished()}


def summary(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / STUDY / "summary.json").read_text())
    return {key: value for key, value in found.items() if key != "seconds"}


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    line = capsys.readouterr().err
    assert line.startswith("tightfit: ")
    assert line.count("\n") == 1
    return line


def test_a_full_disk_is_one_line_and_nothing_is_lost_once_there_is_room(
    command: list[str], disk: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A little more room each time: for the database, for moments, pieces, trials, healing, the checkpoint."""
    before: dict[int, Any] = {}
    said = set()
    for free_kb in (0, 8, 300, 2000, 2900, 3300, 3800, 4500):
        fill(disk, free_kb * 1000)
        if launch.main(command) == 0:
            break
        line = complaint(capsys)
        said.add(line)
        assert "No space left on device" in line or "database or disk is full" in line
        assert "kept" in line
        (disk / "ballast").unlink()
        now = ended(disk)
        assert {number: now.get(number) for number in before} == before
        before = now
    assert len(said) > 3
    (disk / "ballast").unlink(missing_ok=True)
    assert launch.main(command) == 0
    assert summary(disk) == summary(finished)
    assert {number: now[number] for number in before} == before


def test_a_disk_that_takes_nothing_is_one_line(
    command: list[str], disk: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished / "studies", disk / "studies")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    assert launch.main([*command, "--trials", str(TRIALS + 1)]) == 2
    line = complaint(capsys)
    assert "Read-only file system" in line
    assert launch.main(["studies"]) == 0
    assert "bin2" in capsys.readouterr().out
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    assert launch.main(command) == 0
    assert summary(disk) == summary(finished)


def spoil(path: Path, start: float, count: int = 4096) -> None:
    """Other bytes from a share of the file on."""
    data = bytearray(path.read_bytes())
    first = int(start * len(data))
    data[first : first + count] = b"\xa5" * len(data[first : first + count])
    path.write_bytes(data)


def cut(path: Path) -> None:
    """The first half is left."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    "damage", [lambda path: spoil(path, 0), lambda path: spoil(path, 0.1, 100_000), cut], ids=["head", "middle", "half"]
)
def test_a_damaged_database_is_one_line_that_says_what_to_do(
    study: Path, command: list[str], capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None]
) -> None:
    damage(study / "study.db")
    spoilt = (study / "study.db").read_bytes()
    assert launch.main([*command, "--trials", str(TRIALS + 1)]) == 2
    line = complaint(capsys)
    assert "studies/bin2/study.db" in line
    assert ".recover" in line
    assert (study / "study.db").read_bytes() == spoilt, "nothing more is broken"
    assert launch.main(["studies"]) == 0


@pytest.mark.parametrize("damage", [lambda path: spoil(path, 0, 64), cut, empty], ids=["head", "half", "empty"])
def test_a_damaged_bank_is_made_again(
    study: Path, command: list[str], finished: Path, damage: Callable[[Path], None]
) -> None:
    """The study is made anew over it, and comes to the same."""
    shutil.rmtree(study)
    files = [path for path in study.with_name("bank").rglob("*") if path.is_file()]
    assert {path.name for path in files} > {"about.json", "measured.safetensors", "lessons-calibrate.safetensors"}
    for path in files:
        damage(path)
    assert launch.main(command) == 0
    assert summary(study.parents[1]) == summary(finished)


def rename_tensors(path: Path) -> None:
    """A file that can be read, and is another's."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = (
        data[:end].replace(b'"hessian', b'"hessiam').replace(b'"hidden', b'"hiddem').replace(b'"vector', b'"rector')
    )
    assert header != data[:end]
    path.write_bytes(header + data[end:])


def test_a_bank_of_other_tensors_is_made_again(study: Path, command: list[str], finished: Path) -> None:
    shutil.rmtree(study)
    for path in study.with_name("bank").rglob("*.safetensors"):
        rename_tensors(path)
    assert launch.main(command) == 0
    assert summary(study.parents[1]) == summary(finished)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("result.json", cut),
        ("result.json", empty),
        ("result.json", lambda path: path.write_text("[]")),
        ("model/model.safetensors", lambda path: spoil(path, 0.5, 1)),
        ("model/plan.json", Path.unlink),
        ("model/config.json", empty),
        ("model", shutil.rmtree),
        ("model/more.txt", lambda path: path.write_text("more")),
    ],
)
def test_a_damaged_finalist_is_made_again(
    study: Path, command: list[str], finished: Path, capsys: pytest.CaptureFixture[str], *, name: str, damage: Any
) -> None:
    before = summary(finished)
    folder = Path(before["champion"]["path"]).parent
    damage(folder / name)
    (study / "source.json").write_text("{")
    assert launch.main(command) == 0
    line = " ".join(capsys.readouterr().out.split())
    assert f"trial {before['champion']['trial']} is healed and written again: {folder / name.partition('/')[0]}" in line
    assert summary(study.parents[1]) == before
    assert folder_bytes(folder / "model") == before["champion"]["bytes_on_disk"]
    assert launch.main(command) == 0
    assert "written again" not in capsys.readouterr().out


def test_what_killed_processes_left_is_removed(study: Path, command: list[str]) -> None:
    bank = next(study.with_name("bank").glob("*/pieces"))
    old, new = bank / ".x.safetensors.17", bank / ".y.safetensors.18"
    healing = study / Path(summary(study.parents[1])["champion"]["path"]).parent.relative_to(STUDY) / "healing.before"
    for path in (old, new, healing):
        path.touch()
    os.utime(old, (0, time.time() - 7200))
    assert launch.main(command) == 0
    assert (old.exists(), new.exists(), healing.exists()) == (False, True, False)


def test_sweeping_leaves_other_files(tmp_path: Path) -> None:
    for name in (".hidden", "x.17", ".x.tmp"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, 0))
    sweep(tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
