"""Batches in what memory there is: every row once, few attempts in vain, utterances together while that can be."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.inputs import Row, Speech, by_length
from models.room import Room, positions, until_it_fits, utterances

LENGTHS = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 20), st.booleans()), min_size=1, max_size=20)


def rows_of(lengths: Sequence[tuple[int, int, bool]]) -> list[Row]:
    """Two rows of each utterance."""
    found = []
    for prompt, target, heard in lengths:
        speech = Speech(torch.zeros(1), 1) if heard else None
        found += [Row(speech, (0,) * prompt, (0,) * length) for length in (target, target + 1)]
    return found


@given(LENGTHS, st.integers(30, 2_000), st.integers(100, 5_000))
def test_every_row_is_run_once_and_few_attempts_are_in_vain(
    lengths: list[tuple[int, int, bool]], memory: int, most: int
) -> None:
    rows, room = rows_of(lengths), Room()
    batches = by_length(rows, most)
    failed: list[int] = []

    def run(part: Sequence[int]) -> int:
        if positions(rows, part) > max(memory, 61):
            failed.append(positions(rows, part))
            raise torch.OutOfMemoryError
        return positions(rows, part)

    for again in range(2):
        done = []
        before = len(failed)
        for batch in batches:
            parts = list(room.each(rows, batch, run))
            assert [i for part, _ in parts for i in part] == batch
            done += parts
        assert all(size == positions(rows, part) <= max(memory, 61) for part, size in done)
        assert len(failed) - before <= (0 if again else 10)
    assert failed == sorted(failed, reverse=True)
    # no larger than half of what failed, and hardly smaller
    assert not failed or failed[-1] / 4 <= room.most_positions < failed[-1]


def test_rows_of_an_utterance_part_last() -> None:
    rows, room = rows_of([(10, 5, True)] * 3), Room()

    def parts(memory: int) -> list[list[int]]:
        def run(part: Sequence[int]) -> None:
            if positions(rows, part) > memory:
                raise torch.OutOfMemoryError

        return [list(part) for part, _ in room.each(rows, range(6), run)]

    assert parts(100) == [[0, 1, 2, 3, 4, 5]]
    assert parts(70) in ([[0, 1, 2, 3], [4, 5]], [[0, 1], [2, 3, 4, 5]])
    assert parts(40) == [[0, 1], [2, 3], [4, 5]]
    assert parts(20) == [[i] for i in range(6)]
    with pytest.raises(torch.OutOfMemoryError):
        parts(10)


def test_utterances_that_must_stay_whole_do() -> None:
    rows, room = rows_of([(10, 5, True)] * 4), Room(whole_utterances=True)
    weight = torch.nn.Parameter(torch.ones(()))
    ran: list[Sequence[int]] = []

    def loss(memory: int) -> None:
        def of(part: Sequence[int]) -> torch.Tensor:
            ran.append(part)
            if positions(rows, part) > memory:
                raise torch.OutOfMemoryError
            return weight * sum(part)

        ran.clear()
        room.backward(rows, of, lambda: setattr(weight, "grad", None))

    loss(70)
    assert weight.grad == sum(range(8))
    assert [list(part) for part in ran] == [[*range(8)], [0, 1, 2, 3], [4, 5, 6, 7]]
    loss(70)
    assert weight.grad == sum(range(8))
    assert len(ran) == 2
    with pytest.raises(torch.OutOfMemoryError):
        loss(20)
    for part, after in itertools.pairwise(ran[1:]):
        assert not set(utterances(rows, part)) & set(utterances(rows, after))


def test_what_failed_is_let_go_before_the_next_attempt() -> None:
    class Held:
        alive = 0

        def __init__(self) -> None:
            Held.alive += 1

        def __del__(self) -> None:
            Held.alive -= 1

    attempts: list[int] = []

    def run() -> int:
        attempts.append(Held.alive)
        held = Held()
        if len(attempts) < 3:
            raise torch.OutOfMemoryError(f"beside {held}")
        return 7

    assert until_it_fits(run, lambda: True) == 7
    assert attempts == [0, 0, 0]


def test_a_row_that_never_fits_says_nothing_about_others() -> None:
    rows, room = rows_of([(10, 5, True)] * 4), Room()

    def run(_part: Sequence[int]) -> None:
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        list(room.each(rows, range(8), run))
    with pytest.raises(torch.OutOfMemoryError):
        room.backward(rows, lambda _part: run(_part) or torch.zeros(()), lambda: None)
    assert [list(part) for part, _ in room.each(rows, range(8), len)] == [list(range(8))]
