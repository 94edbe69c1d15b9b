"""What a plan does to a model, in words: for those who read a submission, not a plan."""

from __future__ import annotations

from collections.abc import Sequence

from space.layout import Layout, Tower
from space.plan import Layer, Plan, Sublayer
from space.rates import Coded, Rate
from space.size import units


def techniques(layout: Layout, plan: Plan) -> tuple[str, ...]:
    """A phrase for each thing that the plan does, and none for what it does not."""
    found: list[str] = []
    for tower in layout.towers:
        found += _pruned(tower, plan.layers(tower))
    if plan.vocabulary < layout.vocabulary:
        found.append(f"vocabulary trimmed to {plan.vocabulary:,} of {layout.vocabulary:,} tokens")
    found += _quantised(layout, plan)
    if plan.heal.steps:
        how = f"LoRA of rank {plan.heal.rank}, merged" if plan.heal.rank else "all weights"
        found.append(f"distillation from the uncompressed model, {plan.heal.steps} steps ({how})")
    return tuple(found)


def _pruned(tower: Tower, layers: Sequence[Layer]) -> list[str]:
    found = []
    gone = sum(not layer.attention.kept and not layer.ffn.kept for layer in layers)
    if gone:
        found.append(f"{gone} of {len(layers)} {tower.name} layers removed")
    for part, whole, what in (("attention", tower.kv_heads, "attention heads"), ("ffn", tower.ffn, "FFN channels")):
        parts: list[Sublayer] = [getattr(layer, part) for layer in layers]
        alone = sum(not one.kept for one in parts) - gone
        if alone:
            found.append(f"{alone} more {part.replace('ffn', 'FFN')} sublayers of the {tower.name} removed")
        kept = [one.kept for one in parts if one.kept]
        if any(count < whole for count in kept):
            share = sum(kept) / (whole * len(kept))
            found.append(f"{what} of the {tower.name} pruned to {share:.0%} in what stays")
    return found


def _quantised(layout: Layout, plan: Plan) -> list[str]:
    """Mean bits a weight by form, tables among them."""
    forms: dict[str, list[tuple[int, float]]] = {}
    for unit in units(layout, plan):
        weights = sum(linear.rows * linear.columns for linear in unit.linears)
        forms.setdefault(_form(unit.rate), []).append((weights, unit.rate.bits))
    found = []
    for form, parts in forms.items():
        weights = sum(count for count, _ in parts)
        if weights:
            bits = sum(count * rate for count, rate in parts) / weights
            found.append(f"{form}, {bits:.2f} bits a weight on average")
    tables = ", ".join(f"{table.replace('_', ' ')} {plan.rate(table).bits:.2f}" for table in layout.tables)
    return [*found, f"bits of tables: {tables}"]


def _form(rate: Rate) -> str:
    if rate.bits == 16:
        return "bf16"
    if isinstance(rate, Coded):
        return "quantisation with error feedback (GPTQ), entropy-coded"
    return "quantisation with error feedback (GPTQ), packed integers"
