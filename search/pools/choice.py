"""Which pool a search asks for, and what each of its workers begins with."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
from rich.console import Console

from models.devices import computing
from search.job import Job
from search.opening import opened, workbench_of
from search.pools.here import InProcess
from search.pools.pool import Evaluation, Evaluator, Pool, Rungs
from search.pools.processes import Processes
from search.settings import SearchSettings
from search.workbench import Workbench
from space.plan import Plan


@contextmanager
def pool_of(job: Job) -> Iterator[Pool]:
    """The pool that a job's settings ask for, while it is needed. One worker is the driver itself."""
    pool = _processes(job.settings) if job.settings.workers > 1 else InProcess(job.workbench)
    try:
        yield pool
    finally:
        pool.close()


def _processes(settings: SearchSettings) -> Processes:
    workers = settings.workers
    makers = [partial(evaluator_of, replace(settings, device=device)) for device in devices_of(settings)]
    threads = max(1, len(os.sched_getaffinity(0)) // workers)
    return Processes(makers, threads, settings.folder / "workers", 60 * settings.worker_minutes)


def devices_of(settings: SearchSettings) -> list[str]:
    """Of each worker: GPUs in turns where the settings leave it open which one."""
    device = settings.compute.device
    if device.type != "cuda" or ":" in settings.device:
        return [settings.device] * settings.workers
    return [f"cuda:{place % torch.cuda.device_count()}" for place in range(settings.workers)]


def evaluator_of(settings: SearchSettings) -> Evaluator:
    """A worker's: source and data, read once, and the bank it shares with the others."""
    with computing(settings.compute):
        return Computing(settings, workbench_of(settings, opened(settings), Console(file=io.StringIO())))


class Computing:
    """A workbench that evaluates where the settings say, in a process whose command did not say so."""

    def __init__(self, settings: SearchSettings, workbench: Workbench) -> None:
        self._settings, self._workbench = settings, workbench

    def rungs(self, plan: Plan, seed: int, gate: str) -> Rungs:
        rungs = self._workbench.rungs(plan, seed, gate)
        goes_on: bool | None = None
        while True:
            try:
                with computing(self._settings.compute):
                    scores = next(rungs) if goes_on is None else rungs.send(goes_on)
            except StopIteration as ended:
                found: Evaluation = ended.value
                return found
            goes_on = yield scores
