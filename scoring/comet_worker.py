"""COMET behind two pipes: run by the interpreter of COMET's own environment, it imports nothing of ours.

    python -I comet_worker.py MODEL

MODEL is a name on the hub, a folder with hparams.yaml and checkpoints/model.ckpt, or such a checkpoint. Lines of JSON
go both ways. The first is {"ready": {...}}: versions, hash of the checkpoint, device and precision; or {"error": ...},
and then it ends. A request {"src": [...], "mt": [...], "ref": [...], "batch_size": 16} is answered by {"scores": [...],
"system": x} or {"error": ...}. While it is at work {"alive": true} comes every few seconds. It ends with its input, or
with its parent. `-I` keeps scoring/comet.py from being taken for the library.

Scores are those of comet-score, whose way it goes: half precision, lines stripped, batches of similar lengths. Only its
cache of embeddings is off: the keys of that are printed tensors, which torch abridges, so that the batch of one system
may be taken for another's.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
import threading
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

_BEAT_SECONDS = 5.0
# Checkpoints are pickles, and come from elsewhere: Lightning leaves it to torch what these may do, torch (from 2.6 on)
# to this variable. With it only tensors and plain values are read, and nothing in a checkpoint is run.
_ONLY_WEIGHTS = {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1"}
_ANYTHING = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


class Answers:
    """The way out, for the one thread that answers and the one that says that it is alive."""

    def __init__(self, out: TextIO) -> None:
        self._out, self._lock = out, threading.Lock()
        self.at_work = True

    def say(self, **what: Any) -> None:
        with self._lock:
            self._out.write(json.dumps(what) + "\n")
            self._out.flush()

    def beat(self) -> None:
        """Says so while there is work, for ever; ends the process where nobody listens any more."""
        parent, pause = os.getppid(), threading.Event()
        while not pause.wait(_BEAT_SECONDS):
            if os.getppid() != parent:
                os._exit(1)
            if self.at_work:
                try:
                    self.say(alive=True)
                except OSError:
                    os._exit(1)


def checkpoint_of(model: str) -> Path:
    """The file of a model's weights, downloaded where the name is no path. Raises OSError where there is none."""
    path = Path(model).expanduser()
    if path.is_dir():
        path = path / "checkpoints" / "model.ckpt"
    elif not path.is_file():
        if path.is_absolute() or model.startswith((".", "~")) or path.suffix == ".ckpt":
            raise FileNotFoundError("no such file or folder")
        path = _downloaded(model)
    for part in (path, path.absolute().parent.parent / "hparams.yaml"):
        if not part.is_file():
            raise FileNotFoundError(f"there is no {part.name} where it should be: {part}")
    return path


def _downloaded(name: str) -> Path:
    from comet import download_model

    try:
        return Path(download_model(name))
    except KeyError as error:
        # what the hub said stands behind what the older store said, and comet tells neither
        older = error.__context__
        raise OSError(_said(older.__context__ or older if older else error)) from error


def hash_of(path: Path) -> str:
    """The first 16 digits of a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _said(error: BaseException) -> str:
    """The first sentence of an error's message, its type where it has none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].partition(". ")[0] if lines else type(error).__name__


class Scorer:
    """A loaded model. Raises whatever its libraries raise where it cannot be."""

    def __init__(self, name: str) -> None:
        import torch
        from comet import load_from_checkpoint

        path = checkpoint_of(name)
        self._gpus = 1 if torch.cuda.is_available() else 0
        self._model = load_from_checkpoint(str(path))
        self._model.eval()
        self._model.half()
        self.facts = {
            "unbabel-comet": version("unbabel-comet"),
            "torch": str(torch.__version__),
            "hash": hash_of(path),
            "device": "cuda" if self._gpus else "cpu",
            "precision": "float16",
        }

    def scored(self, request: dict[str, Any]) -> dict[str, Any]:
        """Scores of segments in their order, and the system's."""
        texts = zip(request["src"], request["mt"], request["ref"], strict=True)
        samples = [{"src": src.strip(), "mt": mt.strip(), "ref": ref.strip()} for src, mt, ref in texts]
        # loaders in processes of their own would hold our pipes open when we are killed
        found = self._model.predict(
            samples, batch_size=request["batch_size"], gpus=self._gpus, progress_bar=False, num_workers=0
        )
        scores = [float(score) for score in found.scores]
        if not all(map(math.isfinite, scores)):
            raise ValueError("the model gives scores that are no numbers; is it whole?")
        return {"scores": scores, "system": float(found.system_score)}


def serve(scorer: Scorer, answers: Answers) -> None:
    """Answers requests until the input ends."""
    while line := sys.stdin.readline():
        answers.at_work = True
        try:
            answer = scorer.scored(json.loads(line))
        except Exception as error:  # whatever went wrong, the other side is told, and may ask again
            answer = {"error": _said(error)}
        answers.at_work = False
        answers.say(**answer)


def main() -> int:
    """1 where the model cannot be loaded."""
    # libraries print to where answers go; their words go with the errors
    answers = Answers(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(2, 1)
    os.environ.pop(_ANYTHING, None)
    os.environ.update(_ONLY_WEIGHTS)
    threading.Thread(target=answers.beat, daemon=True).start()
    try:
        import_module("comet")
    except Exception as error:  # libraries that do not fit each other raise anything
        answers.say(error=_said(error), missing=True)
        return 1
    try:
        scorer = Scorer(sys.argv[1])
    except Exception as error:  # as above
        answers.say(error=_said(error))
        return 1
    answers.at_work = False
    answers.say(ready=scorer.facts)
    serve(scorer, answers)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
