"""COMET's environment: a virtual environment of exact pins, since unbabel-comet cannot live beside transformers 5."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from space.errors import UserError
from space.files import write_whole

# Read by pip, and by eye: what scores depend on.
PINS = Path(__file__).with_name("comet-requirements.txt")
VARIABLE = "TIGHTFIT_COMET_ENV"
DEFAULT = Path(os.environ.get(VARIABLE) or "~/.cache/tightfit/comet-env").expanduser()
MAKE = "python launch.py comet-env (or make comet)"
# Holds the pins that were installed; written last.
_MARK = ".complete"
_OF_A_VENV = "pyvenv.cfg"


def build_comet_env(folder: Path, python: str | None, say: Callable[[str], None]) -> None:
    """Makes the environment in `folder` by the interpreter `python` (default: the one that runs).

    One that is whole and of the same pins stays as it is; any other is made anew. Raises UserError where that fails,
    with what pip said last, and for a folder that holds something else, which is left alone.
    """
    if _reason_against(folder) is None:
        say(f"COMET's environment {folder} is there, with these pins")
        return
    if folder.exists() and not (folder / _OF_A_VENV).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            f"COMET's environment {folder}: holds something else; name an empty one by --folder or {VARIABLE}"
        )
    say(f"making COMET's environment in {folder}: some minutes and 5 GB, most of it torch")
    (folder / _MARK).unlink(missing_ok=True)
    _run([python or sys.executable, "-m", "venv", "--clear", str(folder)], folder)
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement", str(PINS)]
    _run([str(_interpreter(folder)), *install], folder)
    mark_whole(folder)
    say(f"COMET's environment {folder} is ready")


def comet_python(folder: Path) -> Path:
    """The interpreter of a whole environment of our pins. Raises UserError, with the next step, where there is none."""
    if reason := _reason_against(folder):
        raise UserError(f"COMET's environment {folder} {reason}; make it by {MAKE}")
    return _interpreter(folder)


def mark_whole(folder: Path) -> None:
    """Says that what is in `folder` is an environment of our pins."""
    write_whole(folder / _MARK, _pins())


def _interpreter(folder: Path) -> Path:
    return folder / "bin" / "python"


def _pins() -> str:
    return PINS.read_text(encoding="utf-8")


def _reason_against(folder: Path) -> str | None:
    """Why the environment cannot be used; None where it can."""
    mark = folder / _MARK
    if not folder.exists():
        return "is not there"
    if not mark.is_file() or not _interpreter(folder).exists():
        return "is not complete"
    return None if mark.read_text(encoding="utf-8") == _pins() else "has other pins than this version asks for"


def _run(command: Sequence[str], folder: Path) -> None:
    """Raises UserError with the last line of what a command said, pip's errors first, where it fails."""
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    except OSError as error:
        raise UserError(f"COMET's environment {folder}: {command[0]}: {error.strerror}; name another Python") from error
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        said = ([line for line in lines if line.startswith("ERROR:")] or lines or ["no word of why"])[-1]
        raise UserError(
            f"COMET's environment {folder} could not be made: {said.strip()}; the same command begins anew "
            "(the pins are for Python 3.11 and 3.12)"
        )
