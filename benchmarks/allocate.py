"""Seconds of the allocator at a proven gap, the 7B layout and random instances: ``python -m benchmarks.allocate``"""

from __future__ import annotations

import random
import time
from dataclasses import replace

from benchmarks.publish import publish, target
from models.layouts import find_anatomy
from models.vocabulary import ladder
from space.allocate import Item, allocate, allocate_plan
from space.bins import BIN_NUMBERS, bin_range
from space.choices import choices
from space.limits import Limits
from space.prior import prior_loss

GAP = 1e-3
SUBLAYERS = (10, 30, 100, 300, 1000)
OPTIONS = 60
_BYTES_A_TOKEN = 31


def main() -> None:
    """The 7B layout in every bin, then a curve over the number of sublayers."""
    anatomy = find_anatomy("qwen2-audio-7b")
    sizes = ladder(anatomy.least_vocabulary, anatomy.layout.vocabulary)
    layout = replace(anatomy.layout, vocabulary_sizes=sizes)
    loss = prior_loss(layout)
    options = sum(map(len, choices(layout).values()))
    rows, gaps = [], []
    for number in BIN_NUMBERS:
        limits = Limits(layout, bin_range(number, layout.source_bytes), lambda tokens: _BYTES_A_TOKEN * tokens)
        started = time.perf_counter()
        plan, found = allocate_plan(limits, lambda name, option: -loss(name, option), gap=GAP)
        rows.append(_row(f"7B, bin {number}", len(found.chosen), options, time.perf_counter() - started, found.gap))
        gaps.append(found.gap)
        assert limits.hold(plan)
    curve = [_random_instance(count) for count in SUBLAYERS]
    slowest = max(row["seconds"] for row in rows)
    worst = max(gaps)
    publish(
        "allocate",
        [*rows, *curve],
        [
            target("seconds on the 7B layout, slowest bin", slowest, 1.0, at_least=False),
            target("proven gap on the 7B layout, worst bin", worst, GAP, at_least=False),
        ],
    )


def _random_instance(count: int) -> dict[str, object]:
    """Groups of equal options with noisy, concave values; half of the bytes of all largest options are there."""
    rng = random.Random(count)
    groups = []
    for _ in range(count):
        scale, weight = rng.uniform(1e6, 1e8), rng.uniform(0.1, 3)
        shares = sorted(rng.random() for _ in range(OPTIONS))
        groups.append([Item(int(scale * s), weight * s**0.5 + rng.uniform(0, 0.05)) for s in shares])
    room = sum(max(item.size_bytes for item in group) for group in groups) // 2
    started = time.perf_counter()
    found = allocate(groups, room, gap=GAP)
    assert found is not None
    return _row("random", count, count * OPTIONS, time.perf_counter() - started, found.gap)


def _row(name: str, groups: int, options: int, seconds: float, gap: float) -> dict[str, object]:
    return {"instance": name, "groups": groups, "options": options, "seconds": round(seconds, 3), "gap": f"{gap:.5%}"}


if __name__ == "__main__":
    main()
