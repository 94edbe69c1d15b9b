"""Workers that are processes of the driver's on its machine; threads and GPUs are shared out among them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from search.pools.pool import Event, Maker, Refused, Word, made
from search.pools.seats import PATIENCE_SECONDS, Seat, SeatedPool


class Processes(SeatedPool["_Seat"]):
    """As many workers as there are `makers`, each of which makes the evaluator of one.

    `threads` is how many each computes with. What workers print goes to files of the folder `logs`. One that says
    nothing for `patience` seconds while it evaluates is killed.
    """

    def __init__(
        self, makers: Sequence[Maker], threads: int, logs: Path | None = None, patience: float = PATIENCE_SECONDS
    ) -> None:
        if logs is not None:
            logs.mkdir(parents=True, exist_ok=True)
        files = [None if logs is None else logs / f"worker-{place}.log" for place in range(len(makers))]
        super().__init__([_Seat(maker, threads, file) for maker, file in zip(makers, files, strict=True)], patience)

    def events(self, seconds: float) -> list[Event]:
        """Raises UserError where workers die one after the other before they are ready."""
        heard: list[Connection | int] = [seat.pipe for seat in self._seats]
        wait([*heard, *(seat.process.sentinel for seat in self._seats)], seconds)
        return [event for seat in self._seats for event in self._of(seat)]

    def _of(self, seat: _Seat) -> Iterator[Event]:
        """What a worker said; that it died, where it did, behind its last words."""
        for event in seat.words():
            yield from self._heard(seat, event)
        if not seat.process.is_alive():
            told = f"; the last lines of {seat.log} may say why" if seat.log else ""
            yield from self._lost(seat, _death(seat.process), f"fewer --workers{told}")
        elif seat.hangs(self._patience):
            yield from self._hung(seat)


class _Seat(Seat):
    """Its worker is a process, at the other end of a pipe."""

    def __init__(self, maker: Maker, threads: int, log: Path | None) -> None:
        self._maker, self._threads, self.log = maker, threads, log
        super().__init__()

    def words(self) -> Iterator[Event | None]:
        """What its worker said and nobody heard yet."""
        # the pipe of one that died ends
        with suppress(EOFError, OSError):
            while self.pipe.poll():
                yield self.pipe.recv()

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()

    def _hire(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(
            target=_work, args=(self._maker, self._threads, self.log, theirs), daemon=True
        )
        with _threads(self._threads):
            self.process.start()
        theirs.close()

    def _send(self, word: Word) -> None:
        # one that is dead is noticed by the next look at it
        with suppress(OSError):
            self.pipe.send(word)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Libraries that read it when they are loaded start so many threads."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(count)
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def _death(process: BaseProcess) -> str:
    # one whose end is not known yet has no status
    process.join()
    code = process.exitcode
    if code is None or code >= 0:
        return f"left with status {code}"
    name = signal.Signals(-code).name
    return f"was killed by {name}" + (", for want of memory perhaps" if name == "SIGKILL" else "")


def _work(maker: Maker, threads: int, log: Path | None, pipe: Connection) -> None:
    """The life of a worker's process. It ends with its driver, whatever it is doing."""
    # Ctrl-C is the driver's: it lets trials end
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_driver, daemon=True).start()
    if log is not None:
        _print_to(log)
    import torch  # noqa: PLC0415  the process may be a worker of something lighter

    torch.set_num_threads(threads)
    worker = made(maker)
    if isinstance(worker, Refused):
        pipe.send(worker)
        return
    # that it is ready
    pipe.send(None)
    while True:
        try:
            word: Word = pipe.recv()
        except EOFError:
            return
        pipe.send(worker.told(word))


def _follow_driver() -> None:
    driver = multiprocessing.parent_process()
    assert driver is not None
    wait([driver.sentinel])
    os._exit(1)


def _print_to(log: Path) -> None:
    """What is printed from now on, by libraries below Python, too."""
    file = log.open("a", buffering=1)
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
    sys.stdout = sys.stderr = file
