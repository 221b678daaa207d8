"""MinHash (Broder 1997) by rensa, compiled: signatures of word shingles, and their bands (Leskovec et al., Mining of
Massive Datasets, 3.4).

Two texts of Jaccard similarity s share a band of r rows with probability s^r, one of b bands with 1 - (1 - s^r)^b.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

PERMUTATIONS = 128
BANDS, ROWS = 16, 8
"""A pair of similarity 0.8 is a candidate with probability 0.95, one of 0.7 with 0.61, one of 0.5 with 0.06; signatures
decide then. Below 0.7 other bands would be needed: recipes can't ask for that."""

_SEED = 20_250_514
_TOKEN = re.compile(r"\d+(?:[.,]\d+)*(?:\s*[-+*/^×÷]\s*\d+(?:[.,]\d+)*)+|[぀-ヿ㐀-鿿가-힯]|[^\W_]+(?:'[^\W_]+)?")
_SPACE = re.compile(r"\s+")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


def tokens(text: str) -> list[str]:
    """Words in lower case; an arithmetic expression is one, and so is a Chinese character.

    >>> tokens("What is 23 + 7-12?")
    ['what', 'is', '23+7-12']
    """
    return [word if word.isalnum() else _SPACE.sub("", word) for word in _TOKEN.findall(text.lower())]


def shingles(words: Sequence[str], n: int) -> list[str]:
    """All runs of `n` words; the whole text where it is shorter."""
    if len(words) <= n:
        return [" ".join(words)]
    return list(map(" ".join, zip(*(words[i:] for i in range(n)), strict=False)))


def numbers(text: str) -> str:
    """The numbers of a text in order: another number makes another problem."""
    return " ".join(_NUMBER.findall(text))


def signatures(sets: Sequence[Sequence[str]]) -> NDArray[np.uint32]:
    """One row of `PERMUTATIONS` minima a set."""
    from rensa import RMinHash

    rows: Any = RMinHash.digests_from_token_sets(list(map(list, sets)), PERMUTATIONS, _SEED) if sets else []
    return np.asarray(rows, np.uint32).reshape(len(sets), PERMUTATIONS)


def bands(signatures_: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """One hash a band and row, [rows, BANDS]."""
    parts = np.ascontiguousarray(signatures_).reshape(-1, BANDS, ROWS).astype(np.uint64)
    hashes = np.full(parts.shape[:2], 0xCBF29CE484222325, np.uint64)
    for i in range(ROWS):  # FNV-1a over 32-bit words, then a final mix (splitmix64)
        hashes = (hashes ^ parts[:, :, i]) * np.uint64(0x100000001B3)
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed: NDArray[np.uint64] = hashes ^ (hashes >> np.uint64(27))
    return mixed


def similarity(left: NDArray[np.uint32], right: NDArray[np.uint32]) -> NDArray[np.float64]:
    """The share of equal minima, an estimate of Jaccard similarity with a standard error of at most 0.045."""
    found: NDArray[np.float64] = (left == right).mean(-1)
    return found
