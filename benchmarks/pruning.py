"""What compensation brings where heads and channels are removed: ``python -m benchmarks.pruning``

Errors are of a sublayer's output over its power, on utterances of the proxy role that nothing was measured on.
"""

from __future__ import annotations

from statistics import fmean

import torch

from benchmarks.measured import LANGUAGES, bundled
from benchmarks.publish import publish, target
from compress.importance import measure
from compress.prune import Refit, blocks_of, compensated, kept_columns
from compress.units import bias, matrix
from models.anatomy import places
from models.inputs import batches
from models.loading import pad_token
from search.workbench import by_turns, make_rows
from space.plan import uniform_plan
from space.rates import WHOLE

SHARES = (0.25, 0.5, 0.75)


@torch.no_grad()
def main() -> None:
    """Mean error over the layers by tower and part: simple importance, OBS order, and with the refit."""
    source, corpus, workbench = bundled()
    plan = uniform_plan(source.layout, WHOLE)
    rows = make_rows(source, by_turns(corpus.examples("proxy"))[:48], LANGUAGES)
    unseen = measure(source.model, plan, batches(rows, len(LANGUAGES), pad_token(source.model))).hessians
    errors: dict[tuple[str, float], list[tuple[float, ...]]] = {}
    for place in places(source.model, plan):
        if place.name not in workbench.bank.orders:
            continue
        tower_name, _, part = place.name.split(".")
        tower = next(one for one in source.layout.towers if one.name == tower_name)
        last, block = place.matrices[-1], blocks_of(place.name, tower)
        output, seen = matrix(last), workbench.bank.hessians[place.name][-1]
        shift = bias(last)
        simple = (seen.diagonal * output.square().sum(0)).view(-1, block).sum(1).argsort()
        order = workbench.bank.orders[place.name]
        judge = unseen[place.name][-1]

        def error(order: torch.Tensor, kept: int, *, refit: bool) -> float:
            columns = kept_columns(order, kept, block)  # noqa: B023
            found = compensated(output, seen, columns, bias=shift) if refit else Refit(output[:, columns], shift)  # noqa: B023
            lost = output.clone()  # noqa: B023
            lost[:, columns] -= found.matrix
            total = judge.error(lost)  # noqa: B023
            if shift is not None:  # noqa: B023
                apart = shift - found.bias  # noqa: B023
                total += float(2 * apart @ (lost @ judge.mean) + apart.square().sum())  # noqa: B023
            return total / judge.error(output)  # noqa: B023

        for share in SHARES:
            kept = len(order) - round(share * len(order))
            found = (error(simple, kept, refit=False), error(simple, kept, refit=True), error(order, kept, refit=True))
            errors.setdefault((f"{tower_name} {part}", share), []).append(found)
    rows_out = []
    for (part, share), found in errors.items():
        without, refit, both = (fmean(column) for column in zip(*found, strict=True))
        rows_out.append(
            {
                "removed": f"{share:.0%} of {part}",
                "without": round(without, 4),
                "refit": round(refit, 4),
                "refit, OBS order": round(both, 4),
                "ratio": round(both / without, 3),
            }
        )
    worst = max(rows_out, key=lambda row: float(str(row["ratio"])))
    mean = fmean(float(str(row["ratio"])) for row in rows_out)
    targets = [
        target("mean of errors with over without compensation", mean, 0.5, at_least=False),
        target(f"worst of them ({worst['removed']})", float(str(worst["ratio"])), 0.5, at_least=False),
    ]
    publish("pruning", rows_out, targets)


if __name__ == "__main__":
    main()
