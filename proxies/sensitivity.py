"""Sensitivities: the divergence of the source with a single option of a single choice changed.

A few options of each choice are measured, others lie between them. Sums of sensitivities are what a plan would diverge
by if choices did not depend on one another, which holds where little goes (Frantar and Alistarh 2022, SPDY, arXiv
2201.13096); where much goes they say no more than where to begin.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import numpy as np

from space.choices import Option, choices, plan_of
from space.layout import Layout
from space.plan import REMOVED, Plan, Sublayer
from space.prior import rate_noise
from space.rates import Coded, Packed, Rate
from space.spread import spread

# Rates above so many bits are not measured: noise, and with it divergence, falls as it does below.
_MOST_BITS = 3.0
# How many rates, widths between nothing and all, and sizes of the vocabulary are measured, at least where there are so
# many.
_RATES, _WIDTHS, _SIZES = 5, 3, 5
_LEAST = 1e-9
# Nats a token that a change counts as which leaves no numbers.
_BROKEN = 1e3

# By choice and option, as `points` names them, in nats a token.
Measured = Mapping[str, Mapping[str, float]]


def points(layout: Layout) -> Iterator[tuple[str, str, Plan]]:
    """What is measured: the name of a choice, what the option is called, and the source's plan with it alone changed.

    Choices come from the last to the first, so that of plan after plan much stays.
    """
    options = choices(layout)
    whole = {name: found[-1] for name, found in options.items()}
    for name in reversed(list(options)):
        for called, option in _measured_options(options[name]):
            yield name, called, plan_of(layout, {**whole, name: option})


def _measured_options(options: Sequence[Option]) -> Iterator[tuple[str, Option]]:
    sizes = [x for x in options[:-1] if isinstance(x, int)]
    yield from ((str(size), size) for size in spread(sizes, _SIZES))
    sublayers = [x for x in options if isinstance(x, Sublayer) and x.kept]
    rates: list[Option] = [x for x in options if isinstance(x, Packed | Coded) and x.bits <= _MOST_BITS]
    if sublayers:
        whole = sublayers[-1]
        yield "0", REMOVED
        widths = sorted({x.kept for x in sublayers if x.kept < whole.kept})
        inner = spread([0, *widths, whole.kept], _WIDTHS + 2)[1:-1]
        yield from ((str(kept), Sublayer(kept, whole.rate)) for kept in inner)
        rates = [x for x in sublayers if x.kept == whole.kept and x.rate.bits <= _MOST_BITS]
    yield from ((str(rate_of(option)), option) for option in spread(rates, _RATES))


def rate_of(option: Option) -> Rate | None:
    """The rate of a table or of a sublayer that stays."""
    if isinstance(option, Sublayer):
        return option.rate if option.kept else None
    return option if isinstance(option, Packed | Coded) else None


@dataclass(frozen=True)
class Sensitivities:
    """What was measured for a layout, and values between."""

    layout: Layout
    measured: Measured

    def loss(self, name: str, option: Option) -> float:
        """What the option costs by itself, in nats a token; 0 for the source's own, and never less."""
        curves = self._curves[name]
        stays = option if isinstance(option, int) else option.kept if isinstance(option, Sublayer) else None
        rate = rate_of(option)
        return (0.0 if stays is None else curves.of_width(stays)) + (0.0 if rate is None else curves.of_rate(rate))

    @cached_property
    def _curves(self) -> dict[str, _Curves]:
        return {name: _Curves(self.measured.get(name, {}), found) for name, found in choices(self.layout).items()}


class _Curves:
    """Of one choice: divergence against what stays, and against the noise of rates."""

    def __init__(self, measured: Mapping[str, float], options: tuple[Option, ...]) -> None:
        last = options[-1]
        whole = last.kept if isinstance(last, Sublayer) else last if isinstance(last, int) else 0
        kept = sorted((int(name), max(0.0, value)) for name, value in measured.items() if name.isdecimal())
        # the root rises about evenly with what goes
        self._kept = np.array([*(size for size, _ in kept), whole], dtype=float)
        self._roots = np.sqrt([*(value for _, value in kept), 0.0])
        noises = {str(rate): rate_noise(rate) for option in options if (rate := rate_of(option)) is not None}
        noisy = sorted(
            (math.log(noises[name]), math.log(max(_LEAST, value)))
            for name, value in measured.items()
            if noises.get(name, 0.0) > 0
        )
        self._noise = np.array([noise for noise, _ in noisy])
        self._logs = np.array([value for _, value in noisy])

    def of_width(self, kept: int) -> float:
        return float(np.interp(kept, self._kept, self._roots)) ** 2

    def of_rate(self, rate: Rate) -> float:
        """Logarithm against logarithm of the noise; beyond what was measured divergence goes with the noise."""
        noise = rate_noise(rate)
        if noise == 0 or not len(self._noise):
            return 0.0
        at = math.log(noise)
        beyond = at - min(max(at, self._noise[0]), self._noise[-1])
        return math.exp(float(np.interp(at, self._noise, self._logs)) + beyond)


def finite(divergence: float) -> float:
    """A divergence, or what it counts as where a change leaves no numbers."""
    return divergence if math.isfinite(divergence) else _BROKEN


def measure(
    layout: Layout,
    score: Callable[[Plan], float],
    known: Callable[[], Measured],
    save: Callable[[Measured], None],
    progress: Callable[[str], None] = lambda _name: None,
    *,
    shuffle: random.Random | None = None,
) -> Sensitivities:
    """Scores what is not `known` yet; all is saved after each choice of which something was scored.

    What is known is asked before each choice and before each `save`, as other workers measure too: nothing they saved
    is lost. Workers that `shuffle` the choices, each in its own way, seldom measure the same. `progress` is told the
    choice of each plan.
    """
    found: dict[str, dict[str, float]] = {}
    choice_by_choice = [list(asked) for _, asked in groupby(points(layout), key=lambda one: one[0])]
    if shuffle:
        shuffle.shuffle(choice_by_choice)

    def take_known() -> None:
        for name, values in known().items():
            found.setdefault(name, {}).update(values)

    for asked in choice_by_choice:
        take_known()
        missing = [one for one in asked if one[1] not in found.get(one[0], {})]
        for name, called, plan in missing:
            found.setdefault(name, {})[called] = finite(score(plan))
        for name, _, _ in asked:
            progress(name)
        if missing:
            take_known()
            save(found)
    return Sensitivities(layout, found)
