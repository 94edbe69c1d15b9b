"""Is the bundled model good enough, and hard enough to compress? ``python -m benchmarks.miniature``"""

from __future__ import annotations

from typing import Any

from benchmarks.publish import publish, target
from compress.pipeline import Bank, compress
from corpora.roles import BUNDLED as CORPUS
from corpora.roles import open_corpus
from models.loading import load_source
from models.reference import BUNDLED
from search.exam import Exam
from search.workbench import make_workbench
from space.plan import uniform_plan
from space.rates import Packed

DIRECTIONS = ("en-de", "en-zh")


def main() -> None:
    """Scores source and uniform rates, without healing, on the report role."""
    source, corpus = load_source(BUNDLED), open_corpus(CORPUS)
    bank: Bank = make_workbench(source, corpus, ("de", "zh")).bank
    exam = Exam(corpus, DIRECTIONS, corpus.fingerprint())
    scores: dict[str, dict[str, Any]] = {"source, bf16": exam.scores(source.model, source.processor, "report")}
    for bits in (4, 3, 2):
        plan = uniform_plan(source.layout, Packed(bits, 64))
        model = compress(source, plan, bank, seed=0).model
        scores[f"uniform, {bits} bits, group 64"] = exam.scores(model, source.processor, "report")
    rows = [
        {"model": name, **{f"{d} {metric}": table[d][metric] for d in DIRECTIONS for metric in ("bleu", "chrf")}}
        for name, table in scores.items()
    ]
    first, last = rows[0], rows[-1]
    targets = [target(f"source {d} BLEU", first[f"{d} bleu"], 75, at_least=True) for d in DIRECTIONS]
    targets += [
        target(f"uniform 2 bits loses {d} BLEU", first[f"{d} bleu"] - last[f"{d} bleu"], 15, at_least=True)
        for d in DIRECTIONS
    ]
    publish("miniature", rows, targets)


if __name__ == "__main__":
    main()
