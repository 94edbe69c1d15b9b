"""What a plan does to a model, in words: for those who read a submission, not a plan."""

from __future__ import annotations

from collections.abc import Sequence

from space.layout import Layout, Tower
from space.plan import Layer, Plan, Sublayer
from space.rates import WHOLE, Coded, Rate
from space.size import units

_WHOLE = "the rest in bf16"


def techniques(layout: Layout, plan: Plan) -> tuple[str, ...]:
    """A phrase for each thing that the plan does, and none for what it does not: none for the source in bf16 as it is.

    `layout` is the source's, whose numbers the plan's are held against.
    """
    found: list[str] = []
    for tower in layout.towers:
        found += _pruned(tower, plan.layers(tower))
    if plan.vocabulary < layout.vocabulary:
        found.append(f"vocabulary trimmed to {plan.vocabulary:,} of {layout.vocabulary:,} tokens")
    found += _quantised(layout, plan)
    if plan.heal.steps:
        how = f"LoRA of rank {plan.heal.rank}, merged" if plan.heal.rank else "all weights"
        found.append(f"distillation from the uncompressed model, {_counted(plan.heal.steps, 'step')} ({how})")
    return tuple(found)


def _pruned(tower: Tower, layers: Sequence[Layer]) -> list[str]:
    found = []
    heads = "attention heads" if tower.group == 1 else "key/value heads with their queries"
    gone = sum(not layer.attention.kept and not layer.ffn.kept for layer in layers)
    if gone:
        found.append(f"{gone} of {len(layers)} {tower.name} layers removed")
    for part, whole, what in (("attention", tower.kv_heads, heads), ("ffn", tower.ffn, "FFN channels")):
        parts: list[Sublayer] = [getattr(layer, part) for layer in layers]
        alone = sum(not one.kept for one in parts) - gone
        if alone:
            more = f"{alone} more" if gone else str(alone)
            name = "sublayer" if alone == 1 else "sublayers"
            found.append(f"{more} {part.replace('ffn', 'FFN')} {name} of the {tower.name} removed")
        kept = [one.kept for one in parts if one.kept]
        if any(count < whole for count in kept):
            found.append(f"{sum(kept):,} of {whole * len(kept):,} {what} kept in what stays of the {tower.name}")
    return found


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def _quantised(layout: Layout, plan: Plan) -> list[str]:
    """Mean bits a weight by form, tables among them, scales of packed rates left out; nothing where all is bf16."""
    forms: dict[str, list[tuple[int, float]]] = {}
    for unit in units(layout, plan):
        weights = sum(linear.rows * linear.columns for linear in unit.linears)
        if weights:  # norms are always in bf16
            forms.setdefault(_form(unit.rate), []).append((weights, unit.rate.bits))
    if set(forms) == {_WHOLE}:
        return []
    found, everything = [], sum(count for parts in forms.values() for count, _ in parts)
    for form, parts in forms.items():
        weights = sum(count for count, _ in parts)
        bits = sum(count * rate for count, rate in parts) / weights
        share = "" if len(forms) == 1 else f" ({weights / everything:.1%} of the weights)"
        found.append(f"{form}{share}" if form == _WHOLE else f"{form}, {bits:.2f} bits a weight on average{share}")
    tables = ", ".join(f"{table.replace('_', ' ')} {plan.rate(table).bits:.2f}" for table in layout.tables)
    return [*found, f"bits of tables: {tables}"]


def _form(rate: Rate) -> str:
    if rate == WHOLE:
        return _WHOLE
    if isinstance(rate, Coded):
        return "quantisation with error feedback (GPTQ), entropy-coded"
    return "quantisation with error feedback (GPTQ), packed integers"
