"""What compensation brings where whole layers are removed: ``python -m benchmarks.depth``

Divergence from the source on the proxy role; nothing is quantised and nothing healed.
"""

from __future__ import annotations

import torch

from benchmarks.measured import bundled
from benchmarks.publish import publish
from compress.importance import Behind
from compress.prune import pruned_model
from search.baselines import without_middle_layers
from space.plan import NO_HEAL
from space.rates import WHOLE


@torch.no_grad()
def main() -> None:
    """A row for each number of layers removed from the middle of both towers."""
    source, _, workbench = bundled()
    bank = workbench.bank
    nothing = {name: Behind(0 * one.moments, 0 * one.means) for name, one in bank.behind.items()}
    rows = []
    for removed in range(1, 5):
        plan = without_middle_layers(source.layout, WHOLE, removed, NO_HEAL)
        without, compensated = (
            workbench.divergence(
                pruned_model(source, plan, bank.hessians, bank.orders, behind)[0], source.vocabulary.rows
            )
            for behind in (nothing, bank.behind)
        )
        rows.append(
            {
                "removed": f"{removed} middle layers of each tower",
                "without": round(without, 4),
                "made up for": round(compensated, 4),
                "ratio": round(compensated / without, 3),
            }
        )
    publish("depth", rows, [])


if __name__ == "__main__":
    main()
