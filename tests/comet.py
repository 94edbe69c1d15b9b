"""A COMET that is on every machine: the real worker, in an environment that has a stand-in for the library.

`stand_in(folder)` makes such an environment. Its scores are `stood_in`'s: how much of a reference a translation has,
letter by letter. Words in a translation tell it to misbehave. Run by itself this file is the interpreter of such an
environment.
"""

from __future__ import annotations

import importlib.metadata
import os
import runpy
import signal
import sys
from difflib import SequenceMatcher
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

# In a translation: the process is killed (in place of a checkpoint, too, when it is loaded), is silent, ends, raises an
# error, gives what is no number.
KILLED, SILENT, ENDED, RAISED, NO_NUMBER = "<killed>", "<silent>", "<ended>", "<raised>", "<no number>"
# The one model that the stand-in's hub has; its checkpoint has these bytes.
MODEL = "Unbabel/wmt22-comet-da"
CHECKPOINT = b"a checkpoint"
VERSION = "2.2.7"


def stand_in(folder: Path) -> Path:
    """Makes an environment whose COMET is the stand-in; the folder, for `Comet` and TIGHTFIT_COMET_ENV."""
    environment(folder, f'"{sys.executable}" -I "{Path(__file__).absolute()}" "{folder}/hub" "$@"')
    comet_model(folder / "hub")
    return folder


def environment(folder: Path, command: str) -> Path:
    """Makes a whole environment of our pins whose interpreter is a shell's command."""
    from scoring.comet_env import mark_whole  # noqa: PLC0415  not there where this file is an interpreter

    python = folder / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\nexec {command}\n", encoding="utf-8")
    python.chmod(0o755)
    mark_whole(folder)
    return folder


def comet_model(folder: Path, checkpoint: bytes = CHECKPOINT) -> Path:
    """Makes a folder that is laid out as COMET's models are; only the stand-in can load it."""
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "hparams.yaml").write_text("class_identifier: regression_metric\n", encoding="utf-8")
    (folder / "checkpoints" / "model.ckpt").write_bytes(checkpoint)
    return folder


def stood_in(translation: str, reference: str) -> float:
    """The stand-in's score of a segment, 0 to 1."""
    return SequenceMatcher(None, translation, reference, autojunk=False).ratio()


class _Model:
    """What `comet.load_from_checkpoint` gives, as far as the worker asks."""

    def eval(self) -> None: ...

    def half(self) -> None: ...

    def predict(self, samples: list[dict[str, str]], **_options: Any) -> SimpleNamespace:
        print("libraries print what they like")
        said = " ".join(sample["mt"] for sample in samples)
        if KILLED in said:
            os.kill(os.getpid(), signal.SIGKILL)
        if SILENT in said:
            os.kill(os.getpid(), signal.SIGSTOP)
        if ENDED in said:
            print("a last word", file=sys.stderr, flush=True)
            os._exit(3)
        if RAISED in said:
            raise RuntimeError("out of memory\nand more lines")
        scores = [stood_in(sample["mt"], sample["ref"]) for sample in samples]
        if NO_NUMBER in said:
            scores[0] = float("nan")
        return SimpleNamespace(scores=scores, system_score=sum(scores) / len(scores))


def _load(path: str) -> _Model:
    checkpoint = Path(path).read_bytes()
    if checkpoint == b"":
        raise EOFError("Ran out of input")
    if checkpoint == KILLED.encode():
        os.kill(os.getpid(), signal.SIGKILL)
    return _Model()


def _download(hub: Path, name: str) -> str:
    """As comet's, which tells no reasons."""
    if name == MODEL:
        return str(hub / "checkpoints" / "model.ckpt")
    try:
        raise OSError("We couldn't connect to the hub.\nCheck your connection.")
    except OSError:
        try:
            raise ValueError("is not in the `available_legacy_metrics`")
        except ValueError:
            raise KeyError(f"Model '{name}' not supported by COMET.")  # noqa: B904  as comet does


def _main() -> None:
    """Runs the script that the interpreter was given, `-I SCRIPT ARGUMENTS`, with the stand-in for `comet`."""
    _, hub, _, *sys.argv = sys.argv
    comet: Any = ModuleType("comet")
    comet.load_from_checkpoint, comet.download_model = _load, partial(_download, Path(hub))
    torch: Any = ModuleType("torch")
    torch.__version__, torch.cuda = "stand-in", SimpleNamespace(is_available=lambda: False)
    sys.modules.update(comet=comet, torch=torch)
    importlib.metadata.version = lambda _name: VERSION
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    _main()
