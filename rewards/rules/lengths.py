"""Rewards on how long a completion is, and how much of it comes again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field

from posttrain.rewards.contract import BuiltinReward, Case, RowError, judging_nothing
from posttrain.thinking import visible

Positive = Annotated[int, Field(ge=1)]


def length_target(
    prompts: Sequence[Any], completions: Sequence[str], target_words: Sequence[Any], **columns: Any
) -> list[float | RowError | None]:
    """max(0, 1 - |words - target| / target), target from the column `target_words`."""
    return [_near(text, target) for text, target in zip(completions, target_words, strict=True)]


def _near(text: str, target: Any) -> float | RowError | None:
    if target is None:
        return None
    if isinstance(target, bool) or not isinstance(target, int | float) or not 1 <= target < math.inf:
        return RowError(f"column `target_words` should be a number from 1 on, not {target!r}")
    return max(0.0, 1 - abs(len(text.split()) - target) / target)


def length_window(
    prompts: Sequence[Any],
    completions: Sequence[str],
    *,
    min_words: int = 1,
    max_words: int | None = None,
    **columns: Any,
) -> list[float]:
    """1.0 where the answer has from `min_words` to `max_words` words, else 0.0; without `max_words`, no end."""
    if max_words is not None and max_words < min_words:
        raise ValueError(f"`max_words` ({max_words}) is less than `min_words` ({min_words}): nothing can pass")
    counts = [len(visible(text).split()) for text in completions]
    return [float(min_words <= n and (max_words is None or n <= max_words)) for n in counts]


def overlong(
    prompts: Sequence[Any],
    completions: Sequence[str],
    tokens: Sequence[int | None] | None = None,
    finish_reason: Sequence[str | None] | None = None,
    *,
    max_length: Positive,
    cache: Positive,
    **columns: Any,
) -> list[float | RowError]:
    """DAPO's soft overlong punishment (arXiv 2503.14476, 3.4, equation 13): 0 to -1 by the tokens of the completion.

    0 up to `max_length` - `cache` tokens, then linearly down, -1 from `max_length` on, and for a completion that was
    cut (`finish_reason` length). `tokens` is the number of tokens that were sampled; without it the row fails.
    """
    if cache > max_length:
        raise ValueError(f"`cache` ({cache}) is more than `max_length` ({max_length})")
    none = [None] * len(completions)
    rows = zip(tokens or none, finish_reason or none, strict=True)
    return [_overlong(count, reason, max_length, cache) for count, reason in rows]


def _overlong(count: int | None, reason: str | None, max_length: int, cache: int) -> float | RowError:
    if reason == "length":
        return -1.0
    if count is None:
        return RowError("the number of tokens of the completion isn't known: `tokens` is missing")
    return -min(1.0, max(0.0, (count - (max_length - cache)) / cache))


def repetition(
    prompts: Sequence[Any], completions: Sequence[str], *, n: Positive = 3, penalty: float = -1.0, **columns: Any
) -> list[float]:
    """`penalty` times the share of word `n`-grams that are repeats; 0.0 for none (arXiv 2502.03373, 2.3)."""
    return [penalty * _repeated(text.split(), n) for text in completions]


def _repeated(words: list[str], n: int) -> float:
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


_BUDGET = {"max_length": 100, "cache": 20}

REWARDS: dict[str, BuiltinReward] = {
    "length_target": BuiltinReward(
        function=length_target,
        columns=("target_words",),
        check=judging_nothing(length_target, "target_words"),
        doc="nearness of the word count to the column `target_words`",
        gold=Case(completion="three small words", columns={"target_words": 3}),
        adversarial=Case(completion="three small words and ever so many more", columns={"target_words": 3}),
    ),
    "length_window": BuiltinReward(
        function=length_window,
        doc="the word count lies between two parameters",
        gold=Case(completion="three small words", params={"max_words": 3}),
        adversarial=Case(completion="<think>\nfar too long", params={"max_words": 3}),
    ),
    "overlong": BuiltinReward(
        function=overlong,
        optional=("tokens", "finish_reason"),
        params=("max_length", "cache"),
        sees="completion",
        doc="penalty for completions near or over a number of tokens (0 to -1)",
        full=0.0,
        gold=Case(completion="short", columns={"tokens": 80}, params=_BUDGET),
        adversarial=Case(completion="so long", columns={"tokens": 90}, params=_BUDGET),
    ),
    "repetition": BuiltinReward(
        function=repetition,
        sees="completion",
        doc="penalty for repeated word n-grams (0 to -1)",
        full=0.0,
        gold=Case(completion="Every word of this text is new."),
        adversarial=Case(completion="and so on and so on and so on and so on"),
    ),
}
