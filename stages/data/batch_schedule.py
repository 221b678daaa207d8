"""Which rows a step takes: a pure function of the seed and the step, so that a resumed run takes the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

import numpy as np

T = TypeVar("T")


class BatchSchedule(Generic[T]):
    """Batches of `size` from weighted sources; within a source every row comes once an epoch, in shuffled order.

    >>> BatchSchedule([["a", "b"]], [1.0], size=2, seed=0).batch(0) in (["a", "b"], ["b", "a"])
    True
    """

    def __init__(self, sources: Sequence[Sequence[T]], weights: Sequence[float], *, size: int, seed: int) -> None:
        self.sources, self.size, self.seed = sources, size, seed
        total = sum(weights)
        self.exact = [size * w / total for w in weights]
        self._taken = [[0] * len(sources)]

    def _taken_before(self, step: int) -> list[int]:
        """Rows that each source has given in all steps before `step`.

        One slot after the other goes to the source that is furthest behind its share, so that shares hold over the
        steps even when a batch is small, and no source ever gives a row twice.
        """
        while len(self._taken) <= step:
            taken = list(self._taken[-1])
            due = [e * len(self._taken) for e in self.exact]
            for _ in range(self.size):
                taken[max(range(len(taken)), key=lambda i: due[i] - taken[i])] += 1
            self._taken.append(taken)
        return self._taken[step]

    def batch(self, step: int) -> list[T]:
        """The rows of step `step` (from 0)."""
        spans = zip(self._taken_before(step), self._taken_before(step + 1), strict=True)
        return [
            self._row(index, self.sources[index], position)
            for index, (start, end) in enumerate(spans)
            for position in range(start, end)
        ]

    def _row(self, source: int, rows: Sequence[T], position: int) -> T:
        epoch, offset = divmod(position, len(rows))
        return rows[int(self._permutation(source, len(rows), epoch)[offset])]

    def _permutation(self, source: int, n: int, epoch: int) -> np.ndarray:
        cached = getattr(self, "_cache", None)
        if cached is None or cached.get(source, (None,))[0] != epoch:
            order = np.random.default_rng((self.seed, source, epoch)).permutation(n)
            self._cache = {**(cached or {}), source: (epoch, order)}
        return self._cache[source][1]
