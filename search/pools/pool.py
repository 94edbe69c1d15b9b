"""What a pool of workers is: it evaluates plans for the one driver, which alone decides and writes the storage.

An evaluation goes rung by rung. After each the worker says what it found and waits for the driver to say whether the
next is worth its time: only the driver knows how the other trials did.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Protocol

from search.gates import Gate
from space.errors import UserError, first_line
from space.plan import Plan


@dataclass(frozen=True)
class Evaluation:
    """Divergences before healing (nats a token), or what else is the gate, by rung reached; seconds up to each rung.

    `loss` is what the last rung finds, 100 less chrF of translations after healing, and `healed` the divergence then;
    None where a rung before ended it.
    """

    divergences: tuple[float, ...]
    seconds: tuple[float, ...]
    loss: float | None = None
    healed: float | None = None


Rungs = Generator[tuple[float, ...], bool, Evaluation]


class Evaluator(Protocol):
    """What a worker keeps in memory and evaluates plans with."""

    def rungs(self, plan: Plan, seed: int, gate: Gate) -> Rungs:
        """Yields the scores so far after each rung, is sent whether to go on, and returns what was found."""


# Makes a worker's evaluator, in the worker.
Maker = Callable[[], Evaluator]


@dataclass(frozen=True)
class Task:
    """A plan to evaluate, for the trial of a number; `gate` says what the rungs before healing score."""

    number: int
    plan: Plan
    seed: int
    gate: Gate


# What a driver says to a worker: a task, or whether to go on from a rung.
Word = Task | bool


@dataclass(frozen=True)
class Reached:
    """A rung: its worker waits for an answer. `scores` are those of the rungs so far."""

    number: int
    scores: tuple[float, ...]


@dataclass(frozen=True)
class Evaluated:
    """The end of an evaluation."""

    number: int
    evaluation: Evaluation


@dataclass(frozen=True)
class Broken:
    """An evaluation that raised, or lost its worker; `cause` is the same for what breaks in the same way."""

    number: int
    cause: str
    reason: str


@dataclass(frozen=True)
class Refused:
    """An evaluation, or the making of a worker (no `number`), that the user must mend something for."""

    number: int | None
    reason: str


Event = Reached | Evaluated | Broken | Refused


class Pool(Protocol):
    """Workers that evaluate one task at a time each. A worker that dies is replaced by the pool."""

    @property
    def free(self) -> int:
        """How many tasks can be begun now."""

    def begin(self, task: Task) -> None:
        """Gives a task to a worker that is free, of which there must be one."""

    def answer(self, number: int, goes_on: bool) -> None:
        """Tells the worker of a task that reached a rung whether to go on."""

    def events(self, seconds: float) -> list[Event]:
        """What happened; waits so long at most for something to. A worker that became free is none.

        Raises UserError where there can be no workers.
        """

    def close(self) -> None:
        """Ends all workers, at once."""


class Worker:
    """A worker's side of an evaluation: what each word of the driver's leads to."""

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator
        self._number = -1
        self._rungs: Rungs | None = None

    def told(self, word: Word) -> Event:
        """Evaluates a task up to its first rung; goes on from a rung to the next, or ends."""
        if not isinstance(word, Task):
            return self._on(lambda rungs: rungs.send(word))
        self._number = word.number
        self._rungs = self._evaluator.rungs(word.plan, word.seed, word.gate)
        return self._on(next)

    def _on(self, move: Callable[[Rungs], tuple[float, ...]]) -> Event:
        assert self._rungs is not None
        try:
            return Reached(self._number, move(self._rungs))
        except StopIteration as ended:
            return Evaluated(self._number, ended.value)
        except (UserError, OSError) as error:
            # a disk that is full, a bank that cannot be written: nothing that the plan could help
            return Refused(self._number, first_line(error))
        except Exception as error:
            return broken_by(self._number, error)


def made(maker: Maker) -> Worker | Refused:
    """A worker with the evaluator it makes, or what the user must mend before there can be one."""
    try:
        return Worker(maker())
    except (UserError, OSError) as error:
        return Refused(None, first_line(error))


def broken_by(number: int, error: Exception) -> Broken:
    """What an exception made of an evaluation; its cause is where it was raised."""
    kind = type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{frames[-1].name}, line {frames[-1].lineno}" if frames else "nowhere"
    return Broken(number, f"{kind} in {where}", f"{kind} in {where}: {first_line(error)}")
