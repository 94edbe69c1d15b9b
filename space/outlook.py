"""What a model can be in each bin before any weight is read: what fits, the allocator's plan, what must go."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from space.allocate import allocate_plan
from space.bins import SizeRange
from space.choices import Option, whole_size
from space.errors import UserError
from space.layout import Layout
from space.limits import Limits, largest_plan, smallest_plan
from space.pins import read_pins
from space.plan import Plan, uniform_plan
from space.prior import GAP
from space.rates import Rate
from space.size import part_bytes, plan_parameters, plan_size, units

# What could be left alone, and what is said where a range leaves no room for it. Of each list the first that holds is
# said: those behind it follow from it.
_LEFT_ALONE = (
    (
        (
            ("all:whole", "vocabulary:whole"),
            "something must be pruned or trimmed: whole at the fewest bits the model takes {least}",
        ),
        (
            ("all:whole", "vocabulary:whole", "all:bits>=3"),
            "2 bits or pruning: whole at 3 bits the model takes {least}",
        ),
        (
            ("all:whole", "vocabulary:whole", "all:bits>=4"),
            "3 bits or pruning: whole at 4 bits the model takes {least}",
        ),
    ),
    ((("vocabulary:whole",), "the vocabulary must be trimmed: the smallest plan with all of it takes {least}"),),
    (
        (("encoder:keep",), "encoder sublayers must go: the smallest plan with all of them takes {least}"),
        (("encoder:whole",), "the encoder must be pruned: the smallest plan with all of it takes {least}"),
    ),
    (
        (("decoder:keep",), "decoder sublayers must go: the smallest plan with all of them takes {least}"),
        (("decoder:whole",), "the decoder must be pruned: the smallest plan with all of it takes {least}"),
    ),
)


@dataclass(frozen=True)
class Uniform:
    """One rate for everything, nothing pruned: its bytes, and whether it stays under the bound."""

    rate: Rate
    size_bytes: int
    fits: bool


@dataclass(frozen=True)
class Need:
    """What a range under `least_bytes` makes necessary: `words` have a place for the bytes."""

    words: str
    least_bytes: int


@dataclass(frozen=True)
class Outlook:
    """One range: `least_bytes` and `most_bytes` are the smallest and largest plans' that pins allow, in it or not.

    `gap` is how far the plan's prior value is proven to be from the best at most.
    """

    size_range: SizeRange
    uniform: tuple[Uniform, ...]
    least_bytes: int
    most_bytes: int
    plan: Plan
    size_bytes: int
    parts: dict[str, int]
    parameters: int
    gap: float
    necessary: tuple[Need, ...]


def look_out(limits: Limits, loss: Callable[[str, Option], float], needs: Sequence[Sequence[Need]]) -> Outlook:
    """The outlook for one range; `needs` are those of `find_needs`. Raises UserError where nothing is inside it."""
    layout, bound = limits.layout, limits.size_range.bound_bytes
    plan, allocation = allocate_plan(limits, lambda name, option: -loss(name, option), gap=GAP)
    size = plan_size(layout, plan, limits.fixed_bytes)
    uniform = [(rate, limits.bytes_of(uniform_plan(layout, rate))) for rate in layout.rates]
    necessary = [[need for need in chain if need.least_bytes >= bound][:1] for chain in needs]
    return Outlook(
        size_range=limits.size_range,
        uniform=tuple(Uniform(rate, taken, taken < bound) for rate, taken in uniform),
        least_bytes=limits.bytes_of(smallest_plan(limits)),
        most_bytes=limits.bytes_of(largest_plan(limits)),
        plan=plan,
        size_bytes=size.total,
        parts=part_bytes(size),
        parameters=plan_parameters(layout, plan),
        gap=allocation.gap,
        necessary=tuple(need for chain in necessary for need in chain),
    )


def find_needs(limits: Limits) -> list[list[Need]]:
    """The least bytes of plans that leave something alone, pins kept: a proof for every range below them.

    They do not depend on the range. Of each list the first that a range is below says most.
    """

    def need(texts: Sequence[str], words: str) -> Iterator[Need]:
        try:
            pins = read_pins([*limits.pins.texts, *texts], limits.layout)
            yield Need(words, limits.bytes_of(smallest_plan(replace(limits, pins=pins))))
        except UserError:
            return  # another pin forbids leaving it alone, or the layout has no such part

    return [[found for texts, words in chain for found in need(texts, words)] for chain in _LEFT_ALONE]


@dataclass(frozen=True)
class Kept:
    """What stays of a tower: layers of which anything stays, and heads and channels of all layers together."""

    layers: int
    layers_of: int
    heads: int
    heads_of: int
    channels: int
    channels_of: int


def kept(layout: Layout, plan: Plan) -> dict[str, Kept]:
    """What stays of each tower."""
    found = {}
    for tower in layout.towers:
        layers = plan.layers(tower)
        found[tower.name] = Kept(
            layers=sum(bool(layer.attention.kept or layer.ffn.kept) for layer in layers),
            layers_of=tower.layers,
            heads=sum(layer.attention.kept for layer in layers),
            heads_of=tower.layers * whole_size(tower, "attention"),
            channels=sum(layer.ffn.kept for layer in layers),
            channels_of=tower.layers * whole_size(tower, "ffn"),
        )
    return found


def mean_bits(layout: Layout, plan: Plan) -> float:
    """Bits of the rates, scales left out, averaged over the entries of all matrices that stay."""
    entries = [
        (linear.rows * linear.columns, unit.rate.bits) for unit in units(layout, plan) for linear in unit.linears
    ]
    return sum(count * bits for count, bits in entries) / sum(count for count, _ in entries)
