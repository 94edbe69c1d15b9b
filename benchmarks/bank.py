"""The bank of the bundled model, by ``launch.py bank``: ``python -m benchmarks.bank``, most of an hour on two cores

Its seconds and bytes; how much of it is made again where the command was killed halfway; and how long two workers take
that build one bank at once. A bank is made anew for each, one thread a worker.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.publish import publish, target
from models.layouts import find_anatomy
from models.loading import load_source
from models.reference import BUNDLED
from space.choices import choices, plan_of
from space.layout import Layout
from space.plan import Sublayer
from space.size import units

LAUNCH = Path(__file__).parents[1] / "launch.py"


def started(bank: Path, *words: str) -> subprocess.Popen[str]:
    """A worker that builds a bank."""
    command = [sys.executable, str(LAUNCH), "bank", "--bank", str(bank), "--json", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(  # noqa: S603
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    )


def finished(worker: subprocess.Popen[str]) -> dict[str, Any]:
    """What a worker printed."""
    said, _ = worker.communicate()
    assert worker.returncode == 0, said
    found: dict[str, Any] = json.loads(said)
    return found


def pieces(bank: Path) -> int:
    """How many pieces a bank has."""
    return sum(1 for _ in bank.glob("*/pieces/*.safetensors"))


def entries(layout: Layout) -> int:
    """Entries of the matrices of all options together: what the time and the bytes of a bank go with."""
    options, total = choices(layout), 0
    whole = {name: found[-1] for name, found in options.items()}
    for name, found in options.items():
        widths = {option.kept if isinstance(option, Sublayer) else -1 for option in found}
        for width in widths - {0}:
            of_width = [x for x in found if (x.kept if isinstance(x, Sublayer) else -1) == width]
            plan = plan_of(layout, {**whole, name: of_width[-1]})
            total += len(of_width) * sum(unit.parameters for unit in units(layout, plan) if unit.name == name)
    return total


def main() -> None:
    """A row for each way to build it."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        whole, killed, shared = (Path(folder) / name for name in ("whole", "killed", "shared"))
        one = finished(started(whole))
        rows.append(
            {"built": "by one worker", "seconds": one["seconds"], "pieces": one["made"], "MB": one["bytes"] / 1e6}
        )
        worker, begun = started(killed), time.monotonic()
        while pieces(killed) < one["made"] // 2:
            assert worker.poll() is None, "the worker ended before it could be killed"
            time.sleep(0.2)
        worker.kill()
        worker.wait()
        before, half = pieces(killed), time.monotonic() - begun
        rest = finished(started(killed))
        rows.append(
            {
                "built": f"killed after {before} pieces and continued",
                "seconds": round(half + rest["seconds"], 1),
                "pieces": before + rest["made"],
                "MB": rest["bytes"] / 1e6,
            }
        )
        begun = time.monotonic()
        both = [finished(worker) for worker in [started(shared), started(shared)]]
        together = time.monotonic() - begun
        rows.append(
            {
                "built": "by two workers",
                "seconds": round(together, 1),
                "pieces": sum(x["made"] for x in both),
                "MB": both[0]["bytes"] / 1e6,
            }
        )
    large, small = find_anatomy("qwen2-audio-7b").layout, load_source(BUNDLED).layout
    scale = entries(large) / entries(small)
    rows.append(
        {
            "built": "Qwen2-Audio-7B, by entries of all options",
            "seconds": round(scale * one["seconds"]),
            "pieces": "",
            "MB": scale * one["bytes"] / 1e6,
        }
    )
    publish(
        "bank",
        rows,
        [
            target("pieces made twice after a kill", before + rest["made"] - one["made"], 1, at_least=False),
            target("seconds of two workers over one", together / one["seconds"], 0.75, at_least=False),
        ],
    )


if __name__ == "__main__":
    main()
