"""Exact and near duplicates among millions of rows, a band at a time: hashes on disk, sorted, neighbours compared.

What is in memory: a hash a row for exact duplicates, one band's hashes (or a slice of them), and a number a row that
says whose duplicate it is: some tens of bytes a row, whatever the rows hold. Clusters are the connected components of
similar pairs, and the first row of each is kept: with a ~ b ~ c, c goes even where it is less like a.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from posttrain.stages.data.minhash import BANDS, similarity

SLICE = 8_000_000
"""Hashes of a band that are sorted at a time; more rows mean more passes over the band, not more memory."""

_PAIRS = 50_000


def exact_duplicates(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The first row that has each row's hash."""
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    found: NDArray[np.int64] = first[inverse].astype(np.int64)
    return found


def near_duplicates(
    band: Callable[[int], NDArray[np.uint64]],
    signatures: NDArray[np.uint32],
    numbers: NDArray[np.uint64] | None,
    alive: NDArray[np.bool_],
    near: float,
    progress: Callable[[int], None] = lambda band: None,
) -> NDArray[np.int64]:
    """The first row of each row's cluster of near duplicates; rows that aren't `alive` stand alone.

    `band(i)` and `signatures` may lie on disk. With `numbers`, a pair has to agree in them.
    """
    parent = np.arange(len(alive), dtype=np.int64)
    for number in range(BANDS):
        hashes = band(number)
        slices = max(1, -(-len(hashes) // SLICE))
        for part in range(slices):
            rows = (
                np.flatnonzero(alive & ((hashes % np.uint64(slices)) == part)) if slices > 1 else np.flatnonzero(alive)
            )
            mine = np.asarray(hashes[rows])
            order = np.argsort(mine, kind="stable")  # of equal hashes, the earlier row first
            _join(rows[order], mine[order], signatures, numbers, near, parent)
        progress(number)
    return _roots(parent)


def _join(
    rows: NDArray[np.int64],
    hashes: NDArray[np.uint64],
    signatures: NDArray[np.uint32],
    numbers: NDArray[np.uint64] | None,
    near: float,
    parent: NDArray[np.int64],
) -> None:
    """Compare each row with the one before it in its bucket, and with the bucket's first; join those that are alike."""
    if len(rows) < 2:
        return
    same = hashes[1:] == hashes[:-1]
    place = np.arange(len(rows))
    starts = np.where(np.concatenate(([True], ~same)), place, 0)
    first = np.maximum.accumulate(starts)
    later = np.flatnonzero(same) + 1
    left = np.concatenate([rows[later - 1], rows[first[later]]])
    right = np.concatenate([rows[later], rows[later]])
    wanted = left != right
    pairs = (
        np.unique(np.stack([left[wanted], right[wanted]], 1), axis=0) if wanted.any() else np.zeros((0, 2), np.int64)
    )
    for start in range(0, len(pairs), _PAIRS):
        a, b = pairs[start : start + _PAIRS].T
        open_ = _roots(parent, a) != _roots(parent, b)
        a, b = a[open_], b[open_]
        if numbers is not None:
            agree = numbers[a] == numbers[b]
            a, b = a[agree], b[agree]
        alike = similarity(signatures[a], signatures[b]) >= near
        for x, y in zip(a[alike].tolist(), b[alike].tolist(), strict=True):
            x, y = _root(parent, x), _root(parent, y)
            if x != y:
                parent[max(x, y)] = min(x, y)


def _root(parent: NDArray[np.int64], row: int) -> int:
    while parent[row] != row:
        parent[row] = parent[parent[row]]
        row = int(parent[row])
    return row


def _roots(parent: NDArray[np.int64], rows: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    found = parent.copy() if rows is None else parent[rows]
    while True:
        up = parent[found]
        if np.array_equal(up, found):
            return found
        found = up
