"""What is held in memory, beside a plain list of what was asked for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from compress.recent import Recent


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(0, 40))), st.integers(0, 100))
def test_what_was_asked_for_last_stays(calls: list[tuple[bool, int, int]], most_bytes: int) -> None:
    held: Recent[int, int] = Recent(most_bytes)
    plain: list[tuple[int, int]] = []  # key and size, those asked for last at the end
    for put, key, size in calls:
        known = [one for one in plain if one[0] == key]
        if put:
            held.put(key, size, size)
            plain = [one for one in plain if one[0] != key] + [(key, size)]
            while sum(one[1] for one in plain) > most_bytes and len(plain) > 1:
                plain.pop(0)
        else:
            assert held.get(key) == (known[0][1] if known else None)
            plain = [one for one in plain if one[0] != key] + known
        assert held.size_bytes == sum(one[1] for one in plain)
        assert all((key in held) == any(one[0] == key for one in plain) for key in range(6))
