"""(2) Substantial repetition: much of what is said was said before, or one thing is said over and over in a row."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from posttrain.stages.filters.text_parts import sentences, without_code
from posttrain.thinking import split_thinking
from posttrain.types import Completion, Prompt, Score

_TOKEN = re.compile(r"[぀-ヿ㐀-鿿가-힯]|[^\W_]+(?:[.,]\d+)*|[+\-*/=<>^]+")
_ASKED = re.compile(
    r"\b(?:repeat\w*|times|again and again|over and over|copies|refrain|chorus|lyrics|song|chant|"
    r"wiederhol\w*|r[ée]p[èe]t\w*)\b|重复|遍",
    re.IGNORECASE,
)
_RUN = re.compile(r"((?:[^\W\d_]|[!?。！]){1,12}?|(?!(\d)\2+)\d{2,12}?)\1{14,}")
_FEWEST = 24
"""Of fewer n-grams, a share says nothing."""

Share = Annotated[float, Field(ge=0, le=1)]


def repetition(
    prompt: Prompt,
    completion: Completion,
    score: Score,
    *,
    ngram: Annotated[int, Field(ge=1)] = 4,
    at_most: Share = 0.3,
    loops: Annotated[int, Field(ge=2)] = 4,
) -> str | None:
    """More than `at_most` of the word n-grams stood there before, or something is said `loops` times in a row.

    What repeats in a row must be a sentence or line of three words, or fill a sixth of the text. Code isn't looked at,
    and an answer to somebody who asked for repetition isn't either; its thinking is.
    """
    split = split_thinking(completion.last_turn)
    asked = any(_ASKED.search(str(m.get("content") or "")) for m in prompt.messages if m.get("role") == "user")
    parts = [split.thinking] if asked else [split.thinking, split.answer]
    if completion.turns:
        parts = [completion.said]
    for part in parts:
        text = without_code(part)
        words = _TOKEN.findall(text.lower())
        if _repeated_share(words, ngram) > at_most or _has_loop(text, words, loops) or _RUN.search(text):
            return "repetition"
    return None


def _repeated_share(words: Sequence[str], n: int) -> float:
    grams = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    total = sum(grams.values())
    return (total - len(grams)) / total if total >= _FEWEST else 0.0


def _has_loop(text: str, words: Sequence[str], loops: int) -> bool:
    """A sentence that comes `loops` times nearly in a row, or a cycle of words that fills a sixth of the text."""
    said = [" ".join(_TOKEN.findall(s.lower())) for s in sentences(text)]
    long = [s for s in said if len(s.split()) >= 3]
    counts = Counter(long)
    for sentence, count in counts.items():
        if count < loops:
            continue
        places = [i for i, s in enumerate(said) if s == sentence]
        if any(places[i + loops - 1] - places[i] <= 2 * loops for i in range(len(places) - loops + 1)):
            return True
    return any(_cycle(words, period, loops) for period in range(1, 25))


def _cycle(words: Sequence[str], period: int, loops: int) -> bool:
    """Whether a cycle of `period` words goes round `loops` times, over at least 12 words and a sixth of the text."""
    needed = max(period * loops, 12, len(words) // 6)
    run = period
    for i in range(period, len(words)):
        run = run + 1 if words[i] == words[i - period] and not words[i].isdigit() else period
        if run >= needed:
            return True
    return False
