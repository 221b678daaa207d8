"""Numbers for people: metrics on a line, durations, counts, rates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MAIN_METRICS = (
    "loss",
    "reward",
    "accuracy",
    "pass_rate",
    "kl",
    "entropy",
    "length",
    "tokens_per_second",
)
"""Metrics worth a place on the line, in this order."""


def main_metrics(metrics: Mapping[str, Any]) -> str:
    """The few metrics that fit on a line: `loss 0.412  reward 0.73`."""
    numbers = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
    names = [name for name in MAIN_METRICS if name in numbers] or list(numbers)
    return "  ".join(f"{name} {numbers[name]:.4g}" for name in names[:4])


def tokens_per_second(metrics: Mapping[str, Any]) -> float | None:
    """Tokens that were generated, or else trained on, a second of the step's phases; None if it isn't known."""
    if metrics.get("tokens_per_second"):
        return None  # it stands among the metrics
    seconds = sum(value for name, value in metrics.items() if name.startswith("seconds_") and value is not None)
    tokens = metrics.get("generated_tokens") or metrics.get("tokens")
    return tokens / seconds if tokens and seconds > 0 else None


def duration(seconds: float) -> str:
    """Seconds for people: `48 s`, `3 min 12 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def count_of(number: int | None) -> str:
    """A count for people: 950, 12.3k, 4.56M; nothing if it isn't known.

    >>> count_of(12_345)
    '12.3k'
    """
    if number is None:
        return ""
    for size, letter in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return str(number)
