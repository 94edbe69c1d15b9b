"""Which pool a search asks for, and what each of its workers begins with."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from compress.facts import FACTS
from corpora.roles import ORIGIN, ROLES
from models.devices import computing
from models.reference import resolve_model
from search.gates import Gate
from search.job import Job
from search.opening import opened, workbench_of
from search.pools.cluster import Cluster, check_address, connected, room_for
from search.pools.here import InProcess
from search.pools.luggage import Carrier, carrier, packed
from search.pools.pool import Evaluation, Evaluator, Pool, Rungs
from search.pools.processes import Processes
from search.settings import RAY, SearchSettings
from search.workbench import Workbench
from space.plan import Plan

# Files of a model's folder that are read to load it.
_MODEL = ("*.json", "*.txt", "*.safetensors", "*.model", "*.jinja")


def check_pool(settings: SearchSettings) -> None:
    """Raises UserError where workers are asked for on a cluster that is not there."""
    if settings.ray_address is not None:
        check_address(settings.ray_address)


@contextmanager
def pool_of(job: Job) -> Iterator[Pool]:
    """The pool that a job's settings ask for, while it is needed. One local worker is the driver itself."""
    if job.settings.engine == RAY:
        with _cluster(job) as found:
            yield found
        return
    pool = _processes(job.settings) if job.settings.workers > 1 else InProcess(job.workbench)
    try:
        yield pool
    finally:
        pool.close()


@contextmanager
def _cluster(job: Job) -> Iterator[Pool]:
    settings, facts = job.settings, job.workbench.folder.path
    assert facts is not None, "the bank of a search is a folder"
    workers, address = settings.workers, settings.ray_address
    cpus, gpus = settings.worker_cpus or (1 if address else _share(workers)), settings.worker_gpus or 0
    told = _told(settings, facts.parent)
    with connected(address, cpus * workers):
        room = room_for(cpus, gpus)
        if room < workers:
            job.console.print(f"Ray has room for {room} of {workers} workers; others begin where room is found")
        sent = _sent(told, facts.name) if address else None
        pool = Cluster(partial(evaluator_on, told, cpus, sent), workers, cpus, gpus, 60 * settings.worker_minutes)
        try:
            yield pool
        finally:
            pool.close()


def _told(settings: SearchSettings, bank: Path) -> SearchSettings:
    """What a worker of a cluster is told: the driver's type of device and precision, and its folders; no storage."""
    compute = settings.compute
    return replace(
        settings,
        device=compute.device.type,
        precision=str(compute.precision).removeprefix("torch."),
        model=str(resolve_model(settings.model).resolve()),
        data=settings.data.resolve(),
        bank=bank.resolve(),
        storage=None,
    )


def _sent(settings: SearchSettings, facts: str) -> Carrier:
    """Model, data, and what was measured of the source, which a worker need not measure anew."""
    assert settings.model is not None
    return carrier(
        [
            packed(Path(settings.model), _MODEL),
            packed(settings.data, [*(f"{role}.parquet" for role in ROLES), ORIGIN]),
            packed(settings.bank, [f"{facts}/{pattern}" for pattern in FACTS]),
        ]
    )


def evaluator_on(settings: SearchSettings, threads: int, sent: Carrier | None) -> Evaluator:
    """A worker's on a node of a cluster, in a process that has so many threads."""
    torch.set_num_threads(threads)
    if sent is not None:
        model, data, bank = sent.folders()
        settings = replace(settings, model=str(model), data=data, bank=bank)
    return evaluator_of(settings)


def _processes(settings: SearchSettings) -> Processes:
    workers = settings.workers
    makers = [partial(evaluator_of, replace(settings, device=device)) for device in devices_of(settings)]
    return Processes(makers, _share(workers), settings.folder / "workers", 60 * settings.worker_minutes)


def _share(workers: int) -> int:
    """Of each worker on this machine: cores."""
    return max(1, len(os.sched_getaffinity(0)) // workers)


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

    def rungs(self, plan: Plan, seed: int, gate: Gate) -> Rungs:
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
