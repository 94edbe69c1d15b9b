"""Workers that are processes of the driver's on its machine; threads and GPUs are shared out among them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from search.pools.pool import Broken, Event, Maker, Reached, Refused, Task, Worker
from space.errors import UserError, first_line

# A worker says nothing for so long at most while it evaluates, or it is taken to hang.
PATIENCE_SECONDS = 3600.0
# Workers in a row that may die before they are ready.
_STILLBORN = 3
_READY = "ready"


class Processes:
    """As many workers as there are `makers`, each of which makes the evaluator of one.

    `threads` is how many each computes with. What workers print goes to files of the folder `logs`. One that says
    nothing for `patience` seconds while it evaluates is killed.
    """

    def __init__(
        self, makers: Sequence[Maker], threads: int, logs: Path | None = None, patience: float = PATIENCE_SECONDS
    ) -> None:
        self._patience = patience
        self._stillborn = 0
        if logs is not None:
            logs.mkdir(parents=True, exist_ok=True)
        files = [None if logs is None else logs / f"worker-{place}.log" for place in range(len(makers))]
        self._seats = [_Seat(maker, threads, file) for maker, file in zip(makers, files, strict=True)]

    @property
    def free(self) -> int:
        return sum(seat.ready and seat.task is None for seat in self._seats)

    def begin(self, task: Task) -> None:
        next(seat for seat in self._seats if seat.ready and seat.task is None).begin(task)

    def answer(self, number: int, goes_on: bool) -> None:
        # one that died behind its last words has no task any more
        for seat in self._seats:
            if seat.task == number:
                seat.say(goes_on)

    def events(self, seconds: float) -> list[Event]:
        """Raises UserError where workers die one after the other before they are ready."""
        self._wait(seconds)
        return [event for seat in self._seats for event in self._of(seat)]

    def close(self) -> None:
        for seat in self._seats:
            seat.kill()

    def _wait(self, seconds: float) -> None:
        heard: list[Connection | int] = [seat.pipe for seat in self._seats]
        wait([*heard, *(seat.process.sentinel for seat in self._seats)], seconds)

    def _of(self, seat: _Seat) -> Iterator[Event]:
        """What a worker said; that it died, where it did, behind its last words."""
        while (event := seat.heard()) is not None:
            if event == _READY:
                self._stillborn = 0
            elif isinstance(event, Event):
                yield event
        if seat.process.is_alive() and not seat.hangs(self._patience):
            return
        hung = seat.process.is_alive()
        was, task = seat.ready, seat.task
        seat.kill()
        cause = "hung" if hung else _death(seat.process.exitcode)
        if not was:
            self._stillborn += 1
            if self._stillborn >= _STILLBORN:
                told = f"; the last lines of {seat.log} may say why" if seat.log else ""
                raise UserError(f"workers die before they are ready ({cause}); try fewer --workers{told}")
        if task is not None:
            after = f" for {self._patience:g} seconds" if hung else ""
            yield Broken(task, f"its worker {cause}", f"its worker {cause}{after}")
        seat.start()


class _Seat:
    """A worker's place: its process, which is started anew when it died, and the task it has."""

    def __init__(self, maker: Maker, threads: int, log: Path | None) -> None:
        self._maker, self._threads, self.log = maker, threads, log
        self.start()

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.ready, self.task, self._said = False, None, time.monotonic()
        self.pipe, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(
            target=_work, args=(self._maker, self._threads, self.log, theirs), daemon=True
        )
        with _threads(self._threads):
            self.process.start()
        theirs.close()

    task: int | None

    def begin(self, task: Task) -> None:
        self.task = task.number
        self.say(task)

    def say(self, word: Task | bool) -> None:
        self._said = time.monotonic()
        # one that is dead is noticed by the next look at it
        with suppress(OSError):
            self.pipe.send(word)

    def heard(self) -> Event | str | None:
        """The next thing it said, if it said any."""
        try:
            if not self.pipe.poll():
                return None
            event: Event | str = self.pipe.recv()
        except (EOFError, OSError):
            return None
        self._said = time.monotonic()
        if event == _READY:
            self.ready = True
        elif not isinstance(event, Reached):
            self.task = None
        return event

    def hangs(self, patience: float) -> bool:
        return self.task is not None and time.monotonic() - self._said > patience

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


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


def _death(code: int | None) -> str:
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
    try:
        worker = Worker(maker())
    except (UserError, OSError) as error:
        pipe.send(Refused(None, first_line(error)))
        return
    pipe.send(_READY)
    while True:
        try:
            word: Task | bool = pipe.recv()
        except EOFError:
            return
        pipe.send(worker.begin(word) if isinstance(word, Task) else worker.answer(word))


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
