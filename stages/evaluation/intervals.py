"""Numbers with intervals: means over questions, unbiased pass@k, 95 % intervals by a bootstrap over questions.

Samples of one question aren't independent, so questions are what is drawn again. Tables are [questions, samples], with
nan where there is no verdict: a scorer that failed is left out and counted, never 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posttrain.types import Completion, Row, ScoredGroup

RESAMPLES = 1000
Table = NDArray[np.float64]


def score_table(scored: Sequence[ScoredGroup]) -> Table:
    """Scores, [questions, samples]; nan where there's no verdict."""
    return np.array([[np.nan if s.value is None else s.value for s in g.scores] for g in scored], dtype=float)


def completion_table(scored: Sequence[ScoredGroup], of: Callable[[Completion], float]) -> Table:
    """A property of each completion, [questions, samples]."""
    return np.array([[of(c) for c in g.group.completions] for g in scored], dtype=float)


def pass_at(values: Table, k: int) -> Table:
    """Unbiased pass@k of each question, [questions, 1]: 1 - C(n-c, k) / C(n, k) (Chen et al., 2107.03374, eq. 1).

    n are the question's verdicts, c those that pass (a score of 1). With fewer than k verdicts it is nan: to count what
    has passed so far would favour the questions that pass.

    >>> pass_at(np.array([[1.0, 0.0, 0.0, 0.0], [1.0, np.nan, 0.0, 0.0]]), 2).round(3).tolist()
    [[0.5], [0.667]]
    """
    result = np.full((len(values), 1), np.nan)
    for index, row in enumerate(values):
        verdicts = row[~np.isnan(row)]
        n, c = len(verdicts), int((verdicts >= 1).sum())
        if n >= k:
            result[index] = 1.0 if n - c < k else 1.0 - np.prod(1.0 - k / np.arange(n - c + 1, n + 1))
    return result


def summary(mode: str, metric: str, values: NDArray[Any]) -> Row:
    """A table row: the mean over questions of each question's mean, and its bootstrap interval."""
    means = question_means(np.asarray(values, dtype=float))
    means = means[~np.isnan(means)]
    low, high = bootstrap_interval(means)
    value = float(means.mean()) if len(means) else float("nan")
    return {"mode": mode, "metric": metric, "value": value, "low": low, "high": high, "n": len(means)}


def question_means(values: Table) -> Table:
    """Each question's mean over its verdicts, [questions]; nan where there is none.

    >>> question_means(np.array([[1.0, np.nan, 0.0], [np.nan] * 3])).tolist()
    [0.5, nan]
    """
    known = ~np.isnan(values).all(1)
    means = np.full(len(values), np.nan)
    means[known] = np.nanmean(values[known], axis=1)
    return means


def bootstrap_interval(means: Table, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of the mean over questions; nan without questions.

    >>> bootstrap_interval(np.ones(10))
    (1.0, 1.0)
    """
    if not len(means):
        return float("nan"), float("nan")
    return _percentiles(_drawn_means(means, np.random.default_rng(0)), level)


def difference_interval(a: Table, b: Table, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of mean(b) - mean(a) for means of different questions, each drawn again on its own.

    Of the same questions, take `bootstrap_interval(b - a)`: what makes a question hard for both then drops out.
    """
    if not len(a) or not len(b):
        return float("nan"), float("nan")
    rng = np.random.default_rng(0)
    before = _drawn_means(a, rng)
    return _percentiles(_drawn_means(b, rng) - before, level)


def _drawn_means(means: Table, rng: np.random.Generator) -> Table:
    return means[rng.integers(len(means), size=(RESAMPLES, len(means)))].mean(1)


def _percentiles(draws: Table, level: float) -> tuple[float, float]:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
