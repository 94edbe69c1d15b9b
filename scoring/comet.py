"""COMET (Rei et al. 2022), computed by a process in an environment of its own that stays while there is more to score.

The environment is made by scoring/comet_env.py; in it runs scoring/comet_worker.py, which says how the two talk.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from scoring import comet_env
from space.errors import UserError

MODEL = "Unbabel/wmt22-comet-da"
# Of comet-score; in half precision scores depend on it in the fourth digit.
BATCH_SIZE = 16
# A worker says every 5 seconds that it is alive; importing torch from a slow disk may keep it from that.
PATIENCE_SECONDS = 300.0
_CHUNK_BYTES = 65536
_WORKER = Path(__file__).with_name("comet_worker.py")
# After what is no fault of the user's.
_AGAIN = "the same command scores anew"


@dataclass(frozen=True)
class CometScores:
    """Scores of segments, in their order, and the system's, their mean; about 0 to 1 for MODEL, higher is better."""

    segments: tuple[float, ...]
    system: float


class Comet:
    """COMET of one model: a name on the hub, a folder with hparams.yaml and checkpoints/model.ckpt, or a checkpoint.

    Its worker starts when something is first asked for, runs on the first GPU if there is one, and ends with `close`,
    with the context, or with this process. Whatever fails is a UserError, and what is asked for next starts a fresh
    worker if the old one is gone. One that says nothing for `patience` seconds is ended.
    """

    def __init__(
        self,
        model: str = MODEL,
        environment: Path | None = None,
        *,
        batch_size: int = BATCH_SIZE,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self._model, self._environment = model, environment or comet_env.DEFAULT
        self._batch_size, self._patience = batch_size, patience
        self._worker: _Worker | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def signature(self) -> str:
        """What can change scores: the model's name and the hash of its weights, how it is run, and versions."""
        facts = self._running().facts
        parts = {
            "model": _name_of(self._model),
            "hash": facts["hash"],
            "precision": facts["precision"],
            "device": facts["device"],
            "batch": self._batch_size,
            "version": f"unbabel-comet {facts['unbabel-comet']}, torch {facts['torch']}",
        }
        return "|".join(["COMET", *(f"{name}:{value}" for name, value in parts.items())])

    def score(self, sources: Sequence[str], hypotheses: Sequence[str], references: Sequence[str]) -> CometScores:
        """Scores of translations of as many sources, each with one reference."""
        assert len(sources) == len(hypotheses) == len(references) > 0
        texts = {"src": list(sources), "mt": list(hypotheses), "ref": list(references)}
        answer = self._told({**texts, "batch_size": self._batch_size})
        return CometScores(tuple(answer["scores"]), answer["system"])

    def close(self) -> None:
        """Ends the worker, if there is one."""
        if self._worker is not None:
            self._worker.end()
            self._worker = None

    def _running(self) -> _Worker:
        """The worker; a fresh one where there is none, or none any more."""
        if self._worker is None or self._worker.ended:
            self.close()
            self._worker = self._started()
        return self._worker

    def _started(self) -> _Worker:
        python = comet_env.comet_python(self._environment)
        try:
            worker = _Worker(python, self._model, self._patience)
        except OSError as error:
            raise UserError(f"COMET could not be started by {python}: {error.strerror}; {self._anew()}") from error
        try:
            answer = worker.answer()
        except BaseException as error:
            worker.end()
            if isinstance(error, _LostError):
                step = _AGAIN if isinstance(error, _KilledError) else self._anew()
                raise UserError(f"COMET could not be started by {python}: {error}; {step}") from error
            raise
        if "error" not in answer:
            worker.facts = answer["ready"]
            return worker
        worker.end()
        if answer.get("missing"):
            raise UserError(f"COMET cannot be imported by {python} ({answer['error']}); {self._anew()}")
        raise UserError(
            f"COMET model {self._model}: {answer['error'].rstrip('.')}; give a name on the hub, or a folder with "
            "hparams.yaml and checkpoints/model.ckpt"
        )

    def _anew(self) -> str:
        return f"delete {self._environment} and make it anew by {comet_env.MAKE}"

    def _told(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the worker answers a request. A worker whose answer is not waited for does not stay."""
        worker = self._running()
        try:
            worker.ask(request)
            answer = worker.answer()
        except BaseException as error:
            self.close()
            if isinstance(error, _LostError):
                raise UserError(f"COMET's worker {error}; {_AGAIN}") from error
            raise
        if "error" in answer:
            raise UserError(f"COMET model {self._model} could not score: {answer['error']}")
        return answer


class _LostError(Exception):
    """What became of a worker that will not answer."""


class _KilledError(_LostError):
    """Something outside ended it."""


class _Worker:
    """A process that answers; `facts` is what it said of itself when it was ready."""

    def __init__(self, python: Path, model: str, patience: float) -> None:
        self._patience = patience
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  it is read when the process has ended
        try:
            # in a session of its own, since Ctrl-C is for us: it may mean that scores are still wanted
            self._process = subprocess.Popen(
                [str(python), "-I", str(_WORKER), model],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                bufsize=0,
                start_new_session=True,
            )
        except OSError:
            self._errors.close()
            raise
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._in, False)
        self._rest = b""
        self.facts: Mapping[str, Any] = {}

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def ask(self, request: Mapping[str, Any]) -> None:
        """Raises _LostError where the process has ended or does not listen."""
        left = memoryview(json.dumps(request).encode() + b"\n")
        while left:
            if not _ready(self._in, select.POLLOUT, self._patience):
                raise _LostError(self._silence())
            try:
                left = left[os.write(self._in, left) :]
            except BrokenPipeError as error:
                raise self._end() from error

    def answer(self) -> Mapping[str, Any]:
        """The next line but for signs of life. Raises _LostError where none comes."""
        while True:
            line = self._line()
            try:
                found = json.loads(line)
            except ValueError:
                found = None
            if not isinstance(found, dict):
                raise _LostError(f"said {line[:80]!r}, which is no answer")
            if "alive" not in found:
                return found

    def _line(self) -> bytes:
        heard = time.monotonic()
        while b"\n" not in self._rest:
            left = heard + self._patience - time.monotonic()
            if not _ready(self._out, select.POLLIN, max(0.0, left)):
                raise _LostError(self._silence())
            read = os.read(self._out, _CHUNK_BYTES)
            if not read:
                raise self._end()
            self._rest += read
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def _silence(self) -> str:
        return f"said nothing for {self._patience:g} seconds"

    def _end(self) -> _LostError:
        """How the process ended, which it has or is about to, and its last words."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(self._patience)
        code = self._process.returncode
        if code is None:
            return _LostError("closed its pipes")
        if code < 0:
            name = signal.Signals(-code).name
            return _KilledError(f"was killed ({name}; where memory is short the system does that)")
        self._errors.seek(0)
        words = self._errors.read().decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(words) if line.strip()), "without a word")
        return _LostError(f"ended with status {code}: {last}")

    def end(self) -> None:
        """Kills the process, if it runs, and forgets it."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            assert pipe is not None
            pipe.close()


def _ready(pipe: int, event: int, seconds: float) -> bool:
    """Whether a pipe can be read or written within so many seconds, if only to learn that nobody is there."""
    poll = select.poll()
    poll.register(pipe, event)
    return bool(poll.poll(1000 * seconds))


def _name_of(model: str) -> str:
    """A model's name in signatures: where it lies is of this machine alone."""
    path = Path(model).expanduser()
    if path.is_file():
        return path.absolute().parent.parent.name
    return path.absolute().name if path.is_dir() else model
