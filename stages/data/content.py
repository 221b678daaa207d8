"""What makes two rows the same question: their content, not their ids or their wording of the mode."""

from __future__ import annotations

import hashlib

from posttrain.types import Prompt


def content(prompt: Prompt) -> str:
    """The generator's key (an expression, an instruction), or the words up to the last question.

    >>> content(Prompt(id="1", messages=({"role": "user", "content": "Why  so?"},)))
    'why so?'
    """
    asked = max((i for i, m in enumerate(prompt.messages) if m["role"] != "assistant"), default=-1)
    words = " ".join(str(m.get("content", "")) for m in prompt.messages[: asked + 1])
    return str(prompt.columns.get("key") or normal(words))


def questions(prompt: Prompt) -> frozenset[str]:
    """The contents that the prompt asks for: a generated dialogue's key joins those of its turns.

    >>> sorted(questions(Prompt(id="1", messages=(), columns={"key": "2+3+4|Sort 3 1 2.", "queries": ["", ""]})))
    ['2+3+4', 'sort 3 1 2.']
    """
    whole = content(prompt)
    parts = whole.split("|") if "queries" in prompt.columns else [whole]
    return frozenset(normal(part) for part in parts)


def normal(text: str) -> str:
    """`text` without regard to case and white space."""
    return " ".join(text.lower().split())


def hash64(text: str) -> int:
    """Eight bytes of BLAKE2b: among a million texts, two share them with probability 3e-8."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "little")
