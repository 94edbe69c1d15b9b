"""Batches by length: every row once, utterances together, no batch larger than it may be."""

from __future__ import annotations

import itertools

import torch
from hypothesis import given
from hypothesis import strategies as st

from models.inputs import Row, Speech, by_length

LENGTHS = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 20), st.integers(1, 20), st.booleans()), max_size=30)


@given(LENGTHS, st.integers(1, 400))
def test_rows_are_batched_by_length(lengths: list[tuple[int, int, int, bool]], most: int) -> None:
    rows: list[Row] = []
    for prompt, one, other, heard in lengths:
        speech = Speech(torch.zeros(1), 1) if heard else None
        rows += [Row(speech, (0,) * prompt, (0,) * target) for target in (one, other)]
    found = by_length(rows, most)
    assert sorted(i for batch in found for i in batch) == list(range(len(rows)))

    def positions(batch: list[int]) -> int:
        return len(batch) * max(len(rows[i].prompt) + len(rows[i].target) for i in batch)

    where = {i: number for number, batch in enumerate(found) for i in batch}
    for i in range(0, len(rows), 2):
        assert rows[i].speech is None or where[i] == where[i + 1]
    for batch in found:
        utterances = {id(rows[i].speech or rows[i]) for i in batch}
        assert positions(batch) <= most or len(utterances) == 1
    longest = [positions(batch) // len(batch) for batch in found]
    assert longest == sorted(longest)
    # none could have taken the next one's first row, or utterance
    for batch, after in itertools.pairwise(found):
        first = [i for i in after if (rows[i].speech or rows[i]) is (rows[after[0]].speech or rows[after[0]])]
        assert positions([*batch, *first]) > most
