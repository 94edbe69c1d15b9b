"""What a plan is made of, in a few numbers that say how well it heals whatever its first divergence is."""

from __future__ import annotations

import math
from statistics import fmean

from space.choices import PARTS, whole_size
from space.layout import Layout
from space.plan import Plan, Sublayer


def traits(plan: Plan, layout: Layout) -> dict[str, float]:
    """By name, of each tower's attentions and FFNs: the share that stays, mean bits of what does, how many are gone.

    Of each table its bits; the tokens that stay, as a power of two; steps and rank of healing.
    """
    found: dict[str, float] = {}
    for tower in layout.towers:
        for part in PARTS:
            parts: list[Sublayer] = [getattr(layer, part) for layer in plan.layers(tower)]
            bits = [one.rate.bits for one in parts if one.kept]
            name = f"{tower.name}.{part}"
            found[f"{name}.kept"] = sum(one.kept for one in parts) / whole_size(tower, part) / len(parts)
            found[f"{name}.bits"] = fmean(bits) if bits else 0.0
            found[f"{name}.removed"] = len(parts) - len(bits)
    found |= {f"{table}.bits": plan.rate(table).bits for table in layout.tables}
    return found | {"tokens": math.log2(plan.vocabulary), "heal.steps": plan.heal.steps, "heal.rank": plan.heal.rank}
