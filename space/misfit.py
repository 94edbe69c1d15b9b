"""Whether a plan is one for a layout."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from space.layout import Layout
from space.plan import TABLES, TOWERS, Plan


@dataclass(frozen=True)
class Misfit:
    """In what a plan and a model differ: what the plan has, and what there is in the model."""

    what: str
    plan: object
    model: object


def misfit(plan: Plan, layout: Layout) -> Misfit | None:
    """The first thing in which a plan is not one for a layout: tables, tokens, layers, widths; None where it is."""
    return next(_misfits(plan, layout), None)


def _misfits(plan: Plan, layout: Layout) -> Iterator[Misfit]:
    tables = [name for name in TABLES if getattr(plan, name) is not None]
    if set(tables) != set(layout.tables):
        yield Misfit("tables", ", ".join(tables), ", ".join(layout.tables))
    if not 0 < plan.vocabulary <= layout.vocabulary:
        yield Misfit("tokens", plan.vocabulary, layout.vocabulary)
    depths = {tower.name: tower.layers for tower in layout.towers}
    for name in TOWERS:
        if len(getattr(plan, name)) != depths.get(name, 0):
            yield Misfit(f"layers of the {name}", len(getattr(plan, name)), depths.get(name, 0))
    for tower in layout.towers:
        for index, layer in enumerate(plan.layers(tower)):
            for what, kept, most in (
                ("heads", layer.attention.kept, tower.kv_heads),
                ("channels", layer.ffn.kept, tower.ffn),
            ):
                if not 0 <= kept <= most:
                    yield Misfit(f"{what} of {tower.name}.{index}", kept, most)
