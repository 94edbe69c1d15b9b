"""Climbs stay inside, never get worse, and come near what trying everything finds."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from proxies.answers import Answers
from proxies.linear import Linear
from search.climbing import Climb

# Changes of four choices.
OF = np.array([0, 0, 1, 1, 2, 2, 3, 3])


def example(seed: int, room: int) -> Climb:
    rng = torch.Generator().manual_seed(seed)
    source = torch.randn(20, 6, generator=rng).mul(2).log_softmax(1)
    error = 0.4 * torch.randn(20, 6, generator=rng)
    own = Answers(0.0, (source + error).log_softmax(1), source, None, 20)
    shares = torch.rand(len(OF), 1, 1, generator=rng)
    shifts = 0.15 * torch.randn(len(OF), 20, 6, generator=rng) - 0.6 * shares * error
    sizes = np.array([-4, 3, -5, 6, 2, -1, 4, -3]) * (1 + seed % 3)
    return Climb(Linear(own, shifts), OF, sizes, room)


def everything(climb: Climb) -> NDArray[np.float64]:
    rows = np.array(list(product((0.0, 1.0), repeat=len(OF))))
    return np.array([row for row in rows if climb.fits(row)])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("room", [0, 3])
def test_ends_are_inside_and_in_order_and_nearly_the_best_there_is(seed: int, room: int) -> None:
    climb = example(seed, room)
    nothing = np.zeros(len(OF))
    too_much = np.array([1.0 if size > 0 else 0.0 for size in climb.sizes])
    ends = climb.ends([nothing, too_much])
    found = climb.linear.divergences(np.array(ends))
    assert list(found) == sorted(found)
    assert len({tuple(row) for row in ends}) == len(ends)
    assert all(climb.fits(row) for row in ends)
    start = climb.linear.divergences(nothing[None])[0]
    least = climb.linear.divergences(everything(climb)).min()
    assert found[0] < start
    assert found[0] - least <= 0.1 * (start - least)


def test_a_climb_without_a_change_does_not_make_it() -> None:
    climb = example(0, 3)
    whole = climb.climbed(np.zeros(len(OF)))
    assert whole.any()
    for i in np.flatnonzero(whole):
        other = climb.climbed(np.where(np.arange(len(OF)) == i, 0.0, whole), but=int(i))
        assert not other[i]


@pytest.mark.parametrize("seed", range(6))
def test_the_dearer_changes_are_the_fewer_are_made(seed: int) -> None:
    climb, nothing = example(seed, 3), np.zeros(len(OF))
    whole = climb.reached([nothing])[0]
    counts = [replace(climb, price=price).reached([nothing, whole])[0].sum() for price in (0.0, 0.01, 0.03, 10.0)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1] == 0


def test_where_no_change_is_any_good_none_is_made() -> None:
    source = torch.randn(5, 4).log_softmax(1)
    linear = Linear(Answers(0.0, source, source, None, 5), torch.randn(len(OF), 5, 4))
    climb = Climb(linear, OF, np.zeros(len(OF), dtype=int), 0)
    assert not climb.ends([np.zeros(len(OF))])[0].any()
