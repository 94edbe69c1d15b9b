"""In an evaluator's place: what becomes of a plan is told by the seed of its task."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from search.gates import Gate
from search.pools.pool import Evaluation, Rungs
from space.errors import UserError
from space.plan import Plan

# Seeds by what they do; any other is evaluated.
RAISES, DIES, HANGS, EATS, REFUSES, DIES_ONCE, LEAVES, STOPS, TELLS = range(1_000, 1_009)


@dataclass(frozen=True)
class Stand:
    """Scores are the seed, or what the gate says; two rungs, `seconds` each. What dies once leaves a file in `folder`.

    `fates` are of seeds that do what another says.
    """

    folder: Path
    seconds: float = 0.0
    fates: Mapping[int, int] = field(default_factory=dict)

    def rungs(self, plan: Plan, seed: int, gate: Gate) -> Rungs:
        time.sleep(self.seconds)
        if seed == TELLS:
            yield tuple(map(float, gate.utterances))
        if not (yield (float(seed),)):
            return Evaluation((float(seed),), (self.seconds,), None)
        self._befall(self.fates.get(seed, seed))
        time.sleep(self.seconds)
        if not (yield (float(seed), float(seed))):
            return Evaluation((float(seed),) * 2, (self.seconds,) * 2, None)
        return Evaluation((float(seed),) * 2, (self.seconds,) * 3, float(os.getpid()))

    def _befall(self, seed: int) -> None:
        if seed == RAISES:
            raise ValueError(f"a plan like {seed} is poison")
        if seed == DIES or (seed == DIES_ONCE and not (self.folder / "died").exists()):
            (self.folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if seed == LEAVES:
            os._exit(7)
        if seed == HANGS:
            time.sleep(1_000)
        if seed == STOPS:
            raise KeyboardInterrupt
        if seed == EATS:
            raise MemoryError("no room for 8 GB")
        if seed == REFUSES:
            raise OSError(28, "No space left on device")


def stand(folder: Path, seconds: float = 0.0, fates: Mapping[int, int] | None = None) -> Stand:
    """Makes one, in a worker."""
    return Stand(folder, seconds, fates or {})


def bad_model(_folder: Path) -> Stand:
    """A worker that finds something to mend."""
    raise UserError("--model none: no such folder")


def stillborn(_folder: Path) -> Stand:
    """A worker that dies before it is ready."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def unmade(_folder: Path) -> Stand:
    """A worker that raises before it is ready."""
    raise ZeroDivisionError("not made")
