"""Why rows are dropped, by place: a byte a row for the reason and eight for the row that it repeats."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray


class Verdicts:
    """The reasons against rows that more than the row itself decides; a row gets one at most."""

    def __init__(self, rows: int) -> None:
        self._reasons = [""]
        self._codes = np.zeros(rows, np.uint8)
        self._first = np.full(rows, -1, np.int64)
        self._said: dict[int, str] = {}

    def drop(self, places: Iterable[int], reason: str) -> None:
        """Drop rows for one reason."""
        self._reasons.append(reason)
        self._codes[np.fromiter(places, np.int64)] = len(self._reasons) - 1

    def repeat(self, places: NDArray[np.int64], first: NDArray[np.int64], reason: str) -> None:
        """Drop each of `places`: it repeats the row at the same index of `first`."""
        self.drop(places, reason)
        self._first[places] = first

    def say(self, reasons: Mapping[int, str]) -> None:
        """Drop rows, each for a reason with a detail of its own: `reason: detail`."""
        self.drop(reasons, "")
        self._said |= reasons

    @property
    def dropped(self) -> NDArray[np.bool_]:
        """Which rows have a reason."""
        return self._codes != 0

    @property
    def repeated(self) -> NDArray[np.int64]:
        """The rows that others repeat, in order."""
        found: NDArray[np.int64] = np.unique(self._first[self._first >= 0])
        return found

    def why(self, place: int, names: Mapping[int, str]) -> str:
        """The reason, with its detail where there is one; `names` are the ids of the rows that others repeat."""
        if place in self._said:
            return self._said[place]
        reason, first = self._reasons[self._codes[place]], int(self._first[place])
        return reason if first < 0 else f"{reason}: of {names.get(first, first)}"
