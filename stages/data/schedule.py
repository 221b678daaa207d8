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
        exact = [size * w / total for w in weights]
        self.exact = exact

    def _quota(self, step: int) -> list[int]:
        """Rows a source: cumulative rounding, so that shares hold over steps even when a batch is small."""
        counts = [int(np.floor(e * (step + 1) + 1e-9)) - int(np.floor(e * step + 1e-9)) for e in self.exact]
        while sum(counts) < self.size:  # rounding left some out: the source furthest behind gets them
            behind = [e * (step + 1) - np.floor(e * (step + 1)) for e in self.exact]
            order = sorted(range(len(counts)), key=lambda i: -behind[i])
            for i in order[: self.size - sum(counts)]:
                counts[i] += 1
        return counts

    def batch(self, step: int) -> list[T]:
        """The rows of step `step` (from 0)."""
        chosen: list[T] = []
        for index, (rows, count) in enumerate(zip(self.sources, self._quota(step), strict=True)):
            start = int(np.floor(self.exact[index] * step + 1e-9))
            chosen += [self._row(index, rows, start + i) for i in range(count)]
        return chosen

    def _row(self, source: int, rows: Sequence[T], position: int) -> T:
        epoch, offset = divmod(position, len(rows))
        return rows[int(self._permutation(source, len(rows), epoch)[offset])]

    def _permutation(self, source: int, n: int, epoch: int) -> np.ndarray:
        cached = getattr(self, "_cache", None)
        if cached is None or cached.get(source, (None,))[0] != epoch:
            order = np.random.default_rng((self.seed, source, epoch)).permutation(n)
            self._cache = {**(cached or {}), source: (epoch, order)}
        return self._cache[source][1]
