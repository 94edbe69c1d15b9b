"""Items of several groups in turns."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from space.spread import in_turns


@given(st.lists(st.lists(st.integers(), max_size=5), max_size=5))
def test_items_come_by_their_place_in_their_group_then_by_group(groups: list[list[int]]) -> None:
    placed = sorted((place, number) for number, group in enumerate(groups) for place in range(len(group)))
    assert in_turns(groups) == [groups[number][place] for place, number in placed]
