"""Talks dealt to roles: whole ones, so that no speaker is searched on and reported on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from space.errors import UserError

# Shares of utterances where the report role has data of its own, and where it has not.
OF_THE_REST = {"calibrate": 0.6, "proxy": 0.2, "select": 0.2}
OF_ALL = {"calibrate": 0.5, "proxy": 0.15, "select": 0.15, "report": 0.2}


def dealt(utterances: Mapping[str, int], shares: Mapping[str, float], what: str) -> dict[str, str]:
    """A role for each talk, of which the number of utterances is given; every role has one at least.

    The longest talks go first, each to the role that lacks most of its share. Raises UserError, saying `what` was to
    be dealt, where there are fewer talks than roles.
    """
    if len(utterances) < len(shares):
        raise UserError(
            f"{what}: {len(utterances)} talks for the {len(shares)} roles {', '.join(shares)}, which share none; "
            "add talks, or cut them into parts with names of their own"
        )
    total = sum(utterances.values())
    lacking = {role: share * total for role, share in shares.items()}
    roles: dict[str, str] = {}
    order = sorted(utterances, key=lambda talk: (-utterances[talk], talk))
    for place, talk in enumerate(order):
        empty = [role for role in shares if role not in roles.values()]
        candidates = empty if len(order) - place <= len(empty) else list(shares)
        role = max(candidates, key=lambda one: lacking[one])
        roles[talk] = role
        lacking[role] -= utterances[talk]
    return roles


def in_blocks(names: Sequence[str], shares: Mapping[str, float]) -> dict[str, str]:
    """A role for each of names in their order: stretches of that order, as long as the shares say."""
    ends, sofar = [], 0.0
    for role, share in shares.items():
        sofar += share
        ends.append((role, round(sofar * len(names))))
    return {name: next(role for role, end in ends if place < end) for place, name in enumerate(names)}
