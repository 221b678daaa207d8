"""What an answer merely copies from its prompt: said again, it shows nothing."""

from __future__ import annotations

import re
from typing import Any

from posttrain.rewards.rules.detect import prompt_text

_WORD = re.compile(r"\w+")
_SHORTEST_TURN = 4
"""A whole turn said again is a copy from this many words on; a shorter one may be the answer."""


def without_copies(text: str, prompt: Any, *, run: int = 8) -> str:
    """`text` without what it takes over from the prompt word for word: runs of `run` words and more, whole turns too.

    Case and what stands between the words don't matter, so a quotation, a list or a table of the same words is a copy.
    One pass: a run is looked up among all runs of the prompt.
    """
    turns = [[w.casefold() for w in _WORD.findall(turn)] for turn in _turns(prompt)]
    spans = [(m.start(), m.end()) for m in _WORD.finditer(text)]
    words = [text[start:end].casefold() for start, end in spans]
    copied = bytearray(len(words))
    for length in {run, *(len(turn) for turn in turns if _SHORTEST_TURN <= len(turn) < run)}:
        known = {tuple(turn[i : i + length]) for turn in turns for i in range(len(turn) - length + 1)}
        if length < run:
            known = {tuple(turn) for turn in turns if len(turn) == length}
        if known:
            for i in range(len(words) - length + 1):
                if tuple(words[i : i + length]) in known:
                    copied[i : i + length] = b"\1" * length
    return _kept(text, spans, copied)


def _turns(prompt: Any) -> list[str]:
    if isinstance(prompt, str) or not prompt:
        return [prompt] if prompt else []
    return [prompt_text([message]) for message in prompt]


def _kept(text: str, spans: list[tuple[int, int]], copied: bytearray) -> str:
    parts, position, i = [], 0, 0
    while i < len(spans):
        if not copied[i]:
            i += 1
            continue
        last = i
        while last + 1 < len(spans) and copied[last + 1]:
            last += 1
        parts.append(text[position : spans[i][0]])
        position, i = spans[last][1], last + 1
    parts.append(text[position:])
    return " … ".join(parts) if len(parts) > 1 else text
