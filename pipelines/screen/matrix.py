"""The evaluation matrix, stage x suite x mode, as tables on a page and on a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from posttrain.pipelines.records.results import NO_VERDICT, Figure

Column = tuple[str, str, str]
"""(suite, mode, metric)"""

COUNTS = ("tokens",)
"""Metrics that are no shares."""

QUIET = ("no_verdict", "truncated")
"""Metrics that go without saying while they are 0."""


@dataclass(frozen=True, kw_only=True)
class MatrixCell:
    """One number as the page shows it."""

    text: str
    interval: str
    share: float | None
    """0 to 1, for the bar behind the number; None for what is no share."""
    n: int


@dataclass(frozen=True, kw_only=True)
class EvaluationMatrix:
    """Stages across, results down: a run has few stages and many results."""

    stages: tuple[str, ...]
    main: tuple[Column, ...]
    parts: tuple[Column, ...]
    """By task and domain: folded away at first."""
    cells: dict[tuple[str, Column], MatrixCell]

    @classmethod
    def of(cls, rows: Sequence[Figure]) -> EvaluationMatrix:
        """The matrix of a run's rows."""
        shown = columns(row for row in rows if not goes_without_saying(row, rows))
        return cls(
            stages=tuple(dict.fromkeys(row.stage for row in rows)),
            main=tuple(column for column in shown if "/" not in column[2]),
            parts=tuple(column for column in shown if "/" in column[2]),
            cells={(row.stage, (row.suite, row.mode, row.metric)): _cell(row) for row in rows},
        )


def columns(rows: Iterable[Figure]) -> list[Column]:
    """The (suite, mode, metric) of all rows, in the order they first appear."""
    return list(dict.fromkeys((row.suite, row.mode, row.metric) for row in rows))


def goes_without_saying(row: Figure, rows: Iterable[Figure]) -> bool:
    """Whether a number is a share of trouble that no stage had any of."""
    if row.metric not in QUIET:
        return False
    return not any(r.value for r in rows if (r.suite, r.mode, r.metric) == (row.suite, row.mode, row.metric))


def _cell(row: Figure) -> MatrixCell:
    if math.isnan(row.value):
        return MatrixCell(text=NO_VERDICT, interval="", share=None, n=row.n)
    share = 0 <= row.value <= 1 and row.metric not in COUNTS
    scale = 100 if share else 1
    low, high = row.low * scale, row.high * scale
    return MatrixCell(
        text=f"{row.value * scale:.1f}",
        interval=f"{low:.1f} – {high:.1f}",
        share=row.value if share else None,
        n=row.n,
    )
