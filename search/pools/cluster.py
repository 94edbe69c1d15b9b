"""Workers on a Ray cluster, or on this machine by Ray: it places them, and brings words and files to them.

The driver alone asks and tells the study (decision 0025): Ray knows no trial, only workers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
import torch
from ray import ObjectRef
from ray.exceptions import RayActorError, RayError

from search.pools.pool import Broken, Evaluator, Event, Maker, Reached, Refused, Task, Worker
from search.pools.processes import PATIENCE_SECONDS, STILLBORN
from space.errors import UserError, first_line

# What nodes must be given to run a worker, beside the packages these depend on.
PACKAGES = ("space", "models", "corpora", "compress", "proxies", "scoring", "search")
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Resources:
    """Of each worker, as Ray counts them; it computes with as many threads as it has CPUs."""

    cpus: float = 1.0
    gpus: float = 0.0


@dataclass
class _Seat:
    """A worker's place: its actor, what it is asked, since when, and the task it has."""

    actor: Any
    asked: ObjectRef | None
    ready: bool = False
    task: int | None = None
    since: float = field(default_factory=time.monotonic)


class _Actor:
    """A worker on whatever node Ray found room on."""

    def __init__(self, maker: Maker, threads: int) -> None:
        self._maker, self._threads = maker, threads
        self._worker: Worker | None = None

    def ready(self) -> Refused | None:
        """Makes the evaluator; what the user must mend where it cannot be."""
        torch.set_num_threads(self._threads)
        try:
            evaluator: Evaluator = self._maker()
        except (UserError, OSError) as error:
            return Refused(None, first_line(error))
        self._worker = Worker(evaluator)
        return None

    def begin(self, task: Task) -> Event:
        assert self._worker is not None
        return self._worker.begin(task)

    def answer(self, goes_on: bool) -> Event:
        assert self._worker is not None
        return self._worker.answer(goes_on)


class RayPool:
    """So many workers, each an actor with the same `resources`; where there is no room yet one is not free.

    With an `address` on that cluster (`auto`: the one this machine is part of), else on a Ray of this process, which
    ends with it. An actor that says nothing for `patience` seconds while it evaluates is killed, and made anew.

    Raises UserError where there is no such cluster.
    """

    def __init__(
        self,
        maker: Maker,
        workers: int,
        resources: Resources = Resources(),
        *,
        address: str | None = None,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self._patience, self._stillborn = patience, 0
        self._started = _connected(address, workers, resources)
        made = ray.remote(num_cpus=resources.cpus, num_gpus=resources.gpus, max_restarts=0)(_Actor)
        # to each node once, however many workers it has
        packed = ray.put(maker)
        self._make: Callable[[], Any] = lambda: made.remote(packed, max(1, int(resources.cpus)))  # type: ignore[no-untyped-call]
        self._seats = [self._seated() for _ in range(workers)]

    def _seated(self) -> _Seat:
        actor = self._make()
        return _Seat(actor, actor.ready.remote())

    @property
    def free(self) -> int:
        return sum(seat.ready and seat.task is None for seat in self._seats)

    def begin(self, task: Task) -> None:
        seat = next(seat for seat in self._seats if seat.ready and seat.task is None)
        seat.task, seat.since = task.number, time.monotonic()
        seat.asked = seat.actor.begin.remote(task)

    def answer(self, number: int, goes_on: bool) -> None:
        for seat in self._seats:
            if seat.task == number:
                seat.since = time.monotonic()
                seat.asked = seat.actor.answer.remote(goes_on)

    def events(self, seconds: float) -> list[Event]:
        """Raises UserError where workers die one after the other before they are ready."""
        asked = {seat.asked: place for place, seat in enumerate(self._seats) if seat.asked is not None}
        if not asked:
            return []
        some, rest = ray.wait(list(asked), num_returns=1, timeout=seconds)
        if some and rest:
            some += ray.wait(rest, num_returns=len(rest), timeout=0)[0]
        events = [event for reference in some for event in self._heard(asked[reference])]
        return [*events, *self._hung()]

    def close(self) -> None:
        for seat in self._seats:
            ray.kill(seat.actor)
        if self._started:
            ray.shutdown()

    def _heard(self, place: int) -> Iterator[Event]:
        seat = self._seats[place]
        reference, seat.asked = seat.asked, None
        try:
            event: Event | None = ray.get(reference)
        except RayError as error:
            yield from self._died(place, _death(error))
            return
        if not seat.ready and event is None:
            seat.ready, self._stillborn = True, 0
        if not isinstance(event, Reached):
            seat.task = None
        if event is not None:
            yield event

    def _hung(self) -> Iterator[Event]:
        for place, seat in enumerate(self._seats):
            if seat.task is not None and time.monotonic() - seat.since > self._patience:
                ray.kill(seat.actor)
                yield from self._died(place, "hung", f" for {self._patience:g} seconds")

    def _died(self, place: int, cause: str, more: str = "") -> Iterator[Event]:
        seat = self._seats[place]
        if not seat.ready:
            self._stillborn += 1
            if self._stillborn >= STILLBORN:
                raise UserError(f"workers die before they are ready ({cause}); try fewer --workers")
        self._seats[place] = self._seated()
        if seat.task is not None:
            yield Broken(seat.task, f"its worker {cause}", f"its worker {cause}{more}")


def _connected(address: str | None, workers: int, resources: Resources) -> bool:
    """Whether a Ray was started for this process. One that is there already, as a caller's own, is used."""
    if ray.is_initialized():
        return False
    if address is None:
        cpus = max(1, math.ceil(workers * resources.cpus))
        ray.init(num_cpus=cpus, log_to_driver=False, logging_level="ERROR", include_dashboard=False)
        return True
    shipped = {"py_modules": [str(_ROOT / name) for name in PACKAGES]}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", runtime_env=shipped)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise UserError(
            f"--ray-address {address}: {first_line(error)}; `ray status` says what runs, auto takes this machine's"
        ) from error
    return True


def _death(error: RayError) -> str:
    """In what way; the same for the same way, whichever worker it was."""
    name = type(error).__name__
    if isinstance(error, RayActorError):
        told = str(error)
        if "node" in told and ("died" in told or "dead" in told) and "worker process" not in told:
            return "died with its node"
        return "died" + (", for want of memory" if "memory" in told.lower() and "OOM" in told else "")
    return f"was lost ({name})"
