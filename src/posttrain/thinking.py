"""Reads the think block of a completion: one pure module, used by rewards and stages alike.

Qwen3 writes `<think>\\n{thinking}\\n</think>\\n\\n{answer}`; the answer starts after the *last* `</think>`
(Qwen quickstart: parse from the right).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

OPEN, CLOSE = "<think>", "</think>"
_INVISIBLE = re.compile("[\u00ad\u180e\u200b\u200e\u200f\u2060-\u2064\ufeff]+")
"""Characters that show nothing and that no script needs: soft hyphens, zero-width blanks, marks of direction."""

EARLY_STOP = (
    "\n\nConsidering the limited time by the user, I have to give the solution based on the thinking directly now.\n"
    "</think>\n\n"
)
"""What is injected where the budget ends. The report prints `</think>.\\n\\n`; Qwen's code has no dot, and training
always has "\\n\\n" behind the mark, so the code's form is used."""


@dataclass(frozen=True, kw_only=True)
class Thinking:
    """A completion split at its think block.

    >>> split_thinking("<think>\\n1+1=2\\n</think>\\n\\n2")
    Thinking(thinking='1+1=2', answer='2', opened=True, closed=True, well_formed=True)
    """

    thinking: str
    answer: str
    opened: bool
    closed: bool
    well_formed: bool
    """Exactly one block, at the very start, closed, with an answer behind it."""

    @property
    def empty(self) -> bool:
        """True if nothing was thought (the form of non-thinking mode)."""
        return is_blank(self.thinking)


def visible(text: str) -> str:
    """`text` without characters that show nothing: a word that holds one reads as the word."""
    return text if text.isascii() else _INVISIBLE.sub("", text)


def is_blank(text: str) -> bool:
    """Whether a reader sees nothing in `text`."""
    return not visible(text).strip()


def split_thinking(text: str) -> Thinking:
    """Split `text` into thinking and answer. An unclosed block has no answer."""
    opened, closed = OPEN in text, CLOSE in text
    if not closed:
        thinking = text.split(OPEN, 1)[1] if opened else ""
        answer = "" if opened else text
        return Thinking(
            thinking=thinking.strip("\n"), answer=answer.strip(), opened=opened, closed=False, well_formed=False
        )
    head, _, answer = text.rpartition(CLOSE)
    thinking = head.split(OPEN, 1)[1] if OPEN in head else head
    well_formed = (
        text.count(OPEN) == 1 and text.count(CLOSE) == 1 and text.lstrip("\n").startswith(OPEN) and not is_blank(answer)
    )
    return Thinking(
        thinking=thinking.strip("\n"), answer=answer.strip(), opened=opened, closed=True, well_formed=well_formed
    )


def answer_of(text: str) -> str:
    """What a person reads: the text behind `</think>`; empty if the block was never closed."""
    return split_thinking(text).answer
