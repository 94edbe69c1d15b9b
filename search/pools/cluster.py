"""Workers that are actors on a Ray cluster.

Ray places them, carries what they say, and finds room for new ones where nodes die; of trials it knows nothing.
"""

from __future__ import annotations

import math
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from search.pools.pool import Event, Maker, Refused, Word, made
from search.pools.seats import PATIENCE_SECONDS, Seat, SeatedPool
from space.errors import UserError, first_line

# What a Ray of our own keeps objects in: tasks and what is said of them.
_STORE_BYTES = 128 * 2**20
# Read when Ray is imported or started: no reports of its use, none of its words among ours, GPUs left alone where a
# worker has none, which is what Ray announces for the future.
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
# How long a cluster's port is tried.
_CONNECT_SECONDS = 10.0
# A cluster may be without a node for a worker for so long: those that went away may come back.
_ROOMLESS_SECONDS = 600.0
# What nodes are sent of ours; models and data among it go by themselves, where they are not there.
_PACKAGES = ("space", "models", "corpora", "compress", "proxies", "scoring", "search")
_LEFT_BEHIND = ["bundled"]


@contextmanager
def connected(address: str | None = None, cpus: int = 1) -> Iterator[None]:
    """A connection to the Ray cluster at an address, whose nodes get our packages.

    Without an address it is a Ray of our own on this machine that has so many CPUs, whatever the machine has, and ends
    with the connection. Raises UserError where there is none.
    """
    _quieten()
    import ray  # noqa: PLC0415  not everyone has it

    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    with _refusals(address):
        if address is None:
            ray.init("local", num_cpus=cpus, include_dashboard=False, object_store_memory=_STORE_BYTES, **quiet)
        else:
            root = Path(__file__).parents[2]
            sent = {"py_modules": [str(root / name) for name in _PACKAGES], "excludes": _LEFT_BEHIND}
            ray.init(_found(address), runtime_env=sent, **quiet)
    try:
        yield
    finally:
        ray.shutdown()


def check_address(address: str) -> None:
    """Raises UserError where nobody listens at the address of a cluster."""
    _quieten()
    with _refusals(address):
        _found(address)


def _found(address: str) -> str:
    """Host and port of the cluster that an address names, where somebody listens. Raises OSError where nobody does.

    `ray.init` would start a Ray of its own for `auto` where there is none, and try a wrong port for minutes.
    """
    from ray._private.services import canonicalize_bootstrap_address_or_die  # noqa: PLC0415

    found: str = canonicalize_bootstrap_address_or_die(address)
    host, _, port = found.rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS):
        return found


@contextmanager
def _refusals(address: str | None) -> Iterator[None]:
    """Turns what Ray raises where it cannot be begun into one line for the user."""
    from ray.exceptions import RayError  # noqa: PLC0415

    try:
        yield
    except (RuntimeError, ValueError, OSError, ImportError, RayError) as error:
        reason = (getattr(error, "strerror", None) or first_line(error)).rstrip(".")
        if address is None:
            raise UserError(f"--engine ray: no Ray could be started here: {reason}") from error
        raise UserError(
            f"--ray-address {address}: {reason}; give host:port of the head of a cluster that this machine is a node of"
        ) from error


def _quieten() -> None:
    os.environ.update({name: value for name, value in _QUIET.items() if name not in os.environ})


def room_for(cpus: int, gpus: float) -> int:
    """How many workers of so many CPUs and GPUs the nodes that are there could have at once."""
    import ray  # noqa: PLC0415

    found = 0
    for node in ray.nodes():
        there = node["Resources"] if node["Alive"] else {}
        of_gpus = int(there.get("GPU", 0) / gpus) if gpus else math.inf
        found += int(min(there.get("CPU", 0) // cpus, of_gpus))
    return found


class Cluster(SeatedPool["_Seat"]):
    """So many `workers`, each an actor that has `cpus` and `gpus` of a node and makes an evaluator; within `connected`.

    One that there is no room for, or none yet, is not free. One that says nothing for `patience` seconds while it
    evaluates is killed.
    """

    def __init__(
        self, maker: Maker, workers: int, cpus: int = 1, gpus: float = 0, patience: float = PATIENCE_SECONDS
    ) -> None:
        import ray  # noqa: PLC0415

        self._ray, self._room = ray, partial(room_for, cpus, gpus)
        self._room_seen = time.monotonic()
        hired = ray.remote(_Actor).options(num_cpus=cpus, num_gpus=gpus, max_restarts=0, max_task_retries=0)
        super().__init__([_Seat(partial(hired.remote, maker), ray.kill) for _ in range(workers)], patience)

    def events(self, seconds: float) -> list[Event]:
        """Raises UserError where actors die one after the other before they are ready, and where none can begin."""
        self._look_for_room()
        found = [event for seat in self._spoke(seconds) for event in self._of(seat)]
        for seat in self._seats:
            if seat.hangs(self._patience):
                found += self._hung(seat)
        return found

    def _look_for_room(self) -> None:
        if any(seat.ready for seat in self._seats) or self._room():
            self._room_seen = time.monotonic()
        elif time.monotonic() - self._room_seen > _ROOMLESS_SECONDS:
            raise UserError(
                f"Ray has had no node with room for a worker for {_ROOMLESS_SECONDS / 60:g} minutes; the same command "
                "goes on once there is one, or with --worker-cpus and --worker-gpus that nodes have"
            )

    def _spoke(self, seconds: float) -> list[_Seat]:
        """Those whose calls ended; waits for the first one."""
        calls = [seat.call for seat in self._seats if seat.call is not None]
        if not calls or not self._ray.wait(calls, num_returns=1, timeout=seconds)[0]:
            return []
        ended = set(self._ray.wait(calls, num_returns=len(calls), timeout=0)[0])
        return [seat for seat in self._seats if seat.call in ended]

    def _of(self, seat: _Seat) -> list[Event]:
        """What an actor said; that it died, where it did. Its node's death is none of its own."""
        call, seat.call = seat.call, None
        try:
            return self._heard(seat, self._ray.get(call))
        except self._ray.exceptions.RayError as error:
            cause = _death(error)
            advice = "larger --worker-cpus, and look at Ray's logs"
            return self._lost(seat, cause, advice, blamed=cause != _NODE)


class _Actor:
    """A worker's side: each call leads to the next thing to say, None once there is an evaluator."""

    def __init__(self, maker: Maker) -> None:
        self._maker = maker

    def make(self) -> Refused | None:
        worker = made(self._maker)
        if isinstance(worker, Refused):
            return worker
        self._worker = worker
        return None

    def told(self, word: Word) -> Event:
        return self._worker.told(word)


class _Seat(Seat):
    """Its worker is an actor; the one `call` of it that is under way ends with the next thing it says."""

    def __init__(self, hire: Callable[[], Any], fire: Callable[[Any], None]) -> None:
        self._hired, self._fire = hire, fire
        super().__init__()

    def kill(self) -> None:
        self.call = None
        self._fire(self._actor)

    def _hire(self) -> None:
        self._actor = self._hired()
        self.call = self._actor.make.remote()

    def _send(self, word: Word) -> None:
        self.call = self._actor.told.remote(word)


_NODE = "lost its node"


def _death(error: Exception) -> str:
    """What became of an actor, in words that are the same for what dies in the same way."""
    import ray.exceptions as known  # noqa: PLC0415

    text, kinds = str(error), (known.NodeDiedError, known.OutOfMemoryError, known.ActorUnavailableError)
    if isinstance(error, kinds[0]) or "its node has died" in text:
        return _NODE
    if isinstance(error, kinds[1:]):
        return "was killed for want of memory on its node" if isinstance(error, kinds[1]) else "cannot be reached"
    if isinstance(error, known.RayTaskError):
        return f"raised {type(error.cause).__name__}"
    if left := re.search(r"exit code (\d+)", text):
        return f"left with status {left[1]}"
    killed = "worker process has died" in text
    return "was killed, for want of memory perhaps" if killed else f"was lost to {type(error).__name__}"
