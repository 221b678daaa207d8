"""The response filters of the report's section 4.1, by name. Each says why it drops; None keeps."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

from posttrain.thinking import split_thinking
from posttrain.types import Completion, Prompt, Score

Filter = Callable[[Prompt, Completion, Score], str | None]
MAX_REPEATS = 0.3
GRAM = 8


def correct(prompt: Prompt, completion: Completion, score: Score) -> str | None:
    """(1) A wrong final answer: the rewards didn't pay in full."""
    return None if score.value is not None and score.value >= 1.0 else "wrong answer"


def complete(prompt: Prompt, completion: Completion, score: Score) -> str | None:
    """A response that ran into the length limit, or left its think block open."""
    split = split_thinking(completion.last_turn)
    if completion.finish_reason != "stop":
        return "truncated"
    return "think block left open" if split.opened and not split.closed else None


def repetition(prompt: Prompt, completion: Completion, score: Score) -> str | None:
    """(2) Substantial repetition: too many word n-grams come back."""
    words = completion.said.split()
    grams = Counter(tuple(words[i : i + GRAM]) for i in range(len(words) - GRAM + 1))
    repeated = sum(count - 1 for count in grams.values())
    return "repetition" if grams and repeated / sum(grams.values()) > MAX_REPEATS else None


def guesswork(prompt: Prompt, completion: Completion, score: Score) -> str | None:
    """(3) A guess: it was to think, and the think block is empty."""
    split = split_thinking(completion.last_turn)
    wanted = prompt.mode in ("default", "think")
    return "no reasoning" if wanted and split.empty else None


def consistent(prompt: Prompt, completion: Completion, score: Score) -> str | None:
    """(4) Thinking and summary differ: the answer's last number stands nowhere in the thinking."""
    split = split_thinking(completion.last_turn)
    numbers = re.findall(r"-?\d+(?:\.\d+)?", split.answer)
    if split.empty or not numbers:
        return None
    return None if numbers[-1].lstrip("-") in re.findall(r"\d+(?:\.\d+)?", split.thinking) else "inconsistent summary"


def language(prompt: Prompt, completion: Completion, score: Score) -> str | None:
    """(5) Language mixing: scripts in the response that the prompt doesn't use."""
    asked = {_script(c) for m in prompt.messages for c in str(m.get("content", "")) if c.isalpha()} | {"latin"}
    used = Counter(_script(c) for c in completion.said if c.isalpha())
    foreign = sum(n for script, n in used.items() if script not in asked)
    return "language mixing" if foreign > 0.02 * max(1, sum(used.values())) else None


def _script(character: str) -> str:
    code = ord(character)
    ranges = (
        (0x250, "latin"), (0x370, "latin"), (0x400, "greek"), (0x530, "cyrillic"), (0x600, "hebrew"), (0x750, "arabic"),
        (0xE00, "indic"), (0x3040, "other"), (0x3100, "kana"), (0xA000, "han"), (0xD7B0, "hangul"),
    )  # fmt: skip
    return next((name for end, name in ranges if code < end), "other")


FILTERS: dict[str, Filter] = {
    "correct": correct,
    "complete": complete,
    "repetition": repetition,
    "guesswork": guesswork,
    "consistent": consistent,
    "language": language,
}
