"""Predicted bytes against `stat` for random plans of every bin: ``python -m benchmarks.bytes``"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from optuna.samplers import RandomSampler
from optuna.study import create_study

from benchmarks.publish import publish, target
from compress.checkpoint import load_checkpoint, write_checkpoint
from compress.pipeline import compress
from corpora.roles import BUNDLED as CORPUS
from corpora.roles import open_corpus
from models.loading import load_source
from models.reference import BUNDLED
from search.workbench import counted, make_workbench
from space.bins import BIN_NUMBERS, bin_range
from space.genes import decode, distributions, repair
from space.limits import Limits
from space.plan import NO_HEAL

PLANS_A_BIN = 6


def main() -> None:
    """Six random plans a bin: predicted, written, weighed, loaded."""
    corpus = open_corpus(CORPUS)
    source = counted(load_source(BUNDLED), corpus, ("de", "zh"))
    bank = make_workbench(source, corpus, ("de", "zh")).bank
    study = create_study(sampler=RandomSampler(seed=0))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for number in BIN_NUMBERS:
            limits = Limits(source.layout, bin_range(number, source.layout.source_bytes), source.fixed_bytes)
            for index in range(PLANS_A_BIN):
                proposal = decode(study.ask(distributions(source.layout)).params, source.layout)
                plan = replace(repair(proposal, limits, index), heal=NO_HEAL)
                stored = compress(source, plan, bank, seed=0).stored
                path = Path(folder) / f"{number}-{index}"
                on_disk = write_checkpoint(path, source, plan, stored)
                load_checkpoint(path)
                predicted = limits.bytes_of(plan)
                rows.append(
                    {
                        "bin": number,
                        "plan": index,
                        "predicted": predicted,
                        "stat": on_disk,
                        "bound": limits.size_range.bound_bytes,
                    }
                )
    over = sum(row["stat"] > row["predicted"] or row["stat"] >= row["bound"] for row in rows)
    unused = max(1 - row["stat"] / row["predicted"] for row in rows)
    targets = [
        target("plans over what was predicted or over their bound", over, 0, at_least=False),
        target("share of what was predicted that stays unused, at most", round(unused, 5), 0.005, at_least=False),
    ]
    publish("bytes", rows, targets)


if __name__ == "__main__":
    main()
