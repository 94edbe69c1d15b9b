"""What every plan of a search keeps to: its layout, the size range in exact bytes, and the user's pins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from space.bins import SizeRange, format_bytes
from space.choices import Option, choices, choices_of, hears, is_hearing, plan_of
from space.errors import UserError
from space.layout import Layout, Tower
from space.pins import FREE, Pins
from space.plan import Plan, Sublayer
from space.rates import Coded, Packed, Rate
from space.size import FixedBytes, Unit, plan_size, unit_bytes


@dataclass(frozen=True)
class Limits:
    """`fixed_bytes` gives the bytes of config, tokenizer and processor files by the number of tokens that stay."""

    layout: Layout
    size_range: SizeRange
    fixed_bytes: FixedBytes
    pins: Pins = FREE

    def bytes_of(self, plan: Plan) -> int:
        """What a plan weighs on disk."""
        return plan_size(self.layout, plan, self.fixed_bytes).total

    def hold(self, plan: Plan) -> bool:
        """Whether a plan is inside the range, hears its input and keeps to the pins."""
        allowed = all(self.pins.allow(name, option) for name, option in choices_of(self.layout, plan).items())
        return allowed and hears(plan) and self.size_range.holds(self.bytes_of(plan))

    def check(self) -> None:
        """Raises UserError where no plan can reach the range: not the smallest one, or not the largest one."""
        least, most = (self.bytes_of(plan) for plan in (smallest_plan(self), largest_plan(self)))
        units, name = self.size_range.units, self.size_range.name
        because = f" with {self.pins}" if self.pins.texts else ""
        if least >= self.size_range.bound_bytes:
            raise UserError(
                f"{name}: nothing fits below {format_bytes(self.size_range.bound_bytes, units)}; the smallest plan of "
                f"this model{because} takes {format_bytes(least, units)}, so ask for more than that"
                + (" or loosen a pin" if because else "")
            )
        if most < self.size_range.least_bytes:
            raise UserError(
                f"{name}: the model is too small to fill it; its bytes must reach "
                f"{format_bytes(self.size_range.least_bytes, units)}, and the largest plan{because} takes "
                f"{format_bytes(most, units)}: choose a smaller bin"
            )


def allowed_options(limits: Limits) -> dict[str, tuple[Option, ...]]:
    """The options of every choice that the pins allow; layers that allow the same share one tuple."""
    shared: dict[tuple[tuple[int, ...], tuple[Option, ...]], tuple[Option, ...]] = {}
    found = {}
    for name, options in choices(limits.layout).items():
        concern = limits.pins.concern(name)
        if not concern:
            found[name] = options
            continue
        key = (concern, options)
        if key not in shared:
            shared[key] = tuple(option for option in options if limits.pins.allow(name, option))
        found[name] = shared[key]
    return found


@lru_cache(maxsize=16)
def smallest_plan(limits: Limits) -> Plan:
    """The fewest tensor bytes the pins allow: tables at the cheapest rate, all that may go gone, one decoder head left.

    Another plan can be smaller by the digits in header and plan.json, a few bytes.

    Raises UserError where the pins leave the decoder no attention.
    """
    layout, allowed = limits.layout, allowed_options(limits)
    chosen = {name: _extreme(layout, name, options, min) for name, options in allowed.items()}
    plan = plan_of(layout, chosen)
    if hears(plan):
        return plan
    attentions = {
        name: tuple(option for option in options if isinstance(option, Sublayer) and option.kept)
        for name, options in allowed.items()
        if is_hearing(name)
    }
    cheapest = [(name, _extreme(layout, name, options, min)) for name, options in attentions.items() if options]
    if not cheapest:
        raise UserError(f"{limits.pins}: the decoder needs the attention of at least one layer; loosen one of them")
    name, option = min(cheapest, key=lambda one: _own_bytes(layout, *one))
    return plan_of(layout, {**chosen, name: option})


@lru_cache(maxsize=16)
def largest_plan(limits: Limits) -> Plan:
    """The most bytes the pins allow."""
    layout = limits.layout
    chosen = {name: _extreme(layout, name, options, max) for name, options in allowed_options(limits).items()}
    return plan_of(layout, chosen)


def _extreme(layout: Layout, name: str, options: tuple[Option, ...], which: Callable[..., Option]) -> Option:
    """The option of fewest (min) or most (max) bytes."""
    return which(options, key=lambda option: _own_bytes(layout, name, option))


def _own_bytes(layout: Layout, name: str, option: Option) -> int:
    """Bytes of the unit an option makes; of a vocabulary its size, as more tokens are more bytes everywhere."""
    return option if isinstance(option, int) else option_bytes(layout, name, option, layout.vocabulary)


def option_bytes(layout: Layout, name: str, option: Sublayer | Rate, vocabulary: int) -> int:
    """Tensor bytes of a sublayer's or table's option; `vocabulary` tokens stay in the tables."""
    if isinstance(option, Packed | Coded):
        return unit_bytes(Unit(name, layout.table(name, vocabulary), option))
    tower_name, _, part = name.split(".")
    return _sublayer_bytes(layout.decoder if tower_name == "decoder" else layout.towers[0], part, option)


@lru_cache(maxsize=65_536)
def _sublayer_bytes(tower: Tower, part: str, option: Sublayer) -> int:
    """All layers of a tower are alike."""
    if not option.kept:
        return 0
    linears = tower.attention(option.kept) if part == "attention" else tower.feed_forward(option.kept)
    return unit_bytes(Unit(part, linears, option.rate, tower.norm_parameters))
