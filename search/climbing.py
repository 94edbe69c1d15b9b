"""Local search among changes of a plan: what is best to make together by a model of them, bytes bounded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from proxies.linear import Linear

# Of single moves and of pairs of them so many are looked at, the most promising ones.
_SINGLES, _PAIRS = 8, 50
# Moves after which a climb ends, and the share of what there is to lose that a move must gain.
_MOST_MOVES, _LEAST_GAIN = 60, 1e-4


@dataclass(frozen=True)
class Climb:
    """Changes, of which one of each choice can be made: `of` (changes,) says which choice, `sizes` (changes,) bytes.

    All that are made may weigh `room` bytes more than the plan. Each costs a `price`, in nats a token, beside what they
    come to: the dearer, the fewer are made and the less is left to the model.
    """

    linear: Linear
    of: NDArray[np.int64]
    sizes: NDArray[np.int64]
    room: int
    price: float = 0.0

    def costs(self, made: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of each row (rows, changes), what climbs lower."""
        found: NDArray[np.float64] = self.linear.divergences(made) + self.price * made.sum(1)
        return found

    def fits(self, made: NDArray[np.float64]) -> bool:
        """Whether a row of changes is inside, at most one of each choice."""
        return bool(self.sizes @ made <= self.room and np.bincount(self.of, made).max(initial=0) <= 1)

    def ends(self, starts: Sequence[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
        """What climbs come to: from these rows, of those that fit, and from the best end without each of its changes.

        The last ones do not make that change again; where the others do not fit by themselves, they begin with none.
        The best first, none twice.
        """
        found = {tuple(row) for row in self.reached(starts)}
        best = self._in_order(found)[0]
        for i in np.flatnonzero(best):
            others = np.where(np.arange(len(best)) == i, 0.0, best)
            found.add(tuple(self.climbed(others if self.fits(others) else np.zeros(len(best)), but=int(i))))
        return self._in_order(found)

    def reached(self, starts: Sequence[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
        """What climbs from these rows come to, from those that fit: the best first, none twice."""
        return self._in_order({tuple(self.climbed(row)) for row in starts if self.fits(row)})

    def _in_order(self, rows: Iterable[tuple[float, ...]]) -> list[NDArray[np.float64]]:
        of = np.array(sorted(rows))
        return [of[i] for i in np.argsort(self.costs(of), kind="stable")]

    def climbed(self, made: NDArray[np.float64], *, but: int | None = None) -> NDArray[np.float64]:
        """From a row that `fits` one move or two at once after the other, as long as that is better.

        A move makes a change, in place of another of its choice and `but` one, or takes one back.
        """
        now = float(self.costs(made[None])[0])
        least = _LEAST_GAIN * now
        for _ in range(_MOST_MOVES):
            ahead = self._ahead(made, now)
            ahead = ahead if but is None else ahead[ahead[:, but] == 0]
            if not len(ahead):
                break
            found = self.costs(ahead)
            best = int(found.argmin())
            if not found[best] < now - least:
                break
            made, now = ahead[best], float(found[best])
        return made

    def _ahead(self, made: NDArray[np.float64], now: float) -> NDArray[np.float64]:
        """The most promising rows (rows, changes) that are a move or two away and fit."""
        moves = self._moves(made)
        more, free = moves @ self.sizes, self.room - self.sizes @ made
        gains = self.costs(made + moves) - now
        pairs = gains[:, None] + gains + moves @ self.linear.products(made) @ moves.T
        apart = (self.of[:, None] != self.of) & (more[:, None] + more <= free)
        pairs = np.where(np.triu(apart, 1), pairs, np.inf)
        gains = np.where(more <= free, gains, np.inf)
        singles = [moves[i] for i in _least(gains, _SINGLES)]
        both = [moves[i // len(moves)] + moves[i % len(moves)] for i in _least(pairs.ravel(), _PAIRS)]
        ahead: NDArray[np.float64] = made + np.array([*singles, *both]).reshape(-1, len(made))
        return ahead

    def _moves(self, made: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of every change the move that makes it or takes it back (moves, changes)."""
        moves = np.eye(len(made))
        for i in np.flatnonzero(made):
            moves[self.of == self.of[i], i] -= 1
            moves[i, i] = -1
        return moves


def _least(values: NDArray[np.float64], count: int) -> list[int]:
    """Where the least finite values are, in order."""
    count = min(count, len(values))
    order = np.argpartition(values, count - 1)[:count] if count else np.array([], dtype=int)
    return [int(i) for i in sorted(order, key=lambda i: (values[i], i)) if np.isfinite(values[i])]
