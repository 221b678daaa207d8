"""Reads the think block of a completion: one pure module, used by rewards and stages alike.

Qwen3 writes `<think>\\n{thinking}\\n</think>\\n\\n{answer}`; the answer starts after the *last* `</think>`
(Qwen quickstart: parse from the right).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from textwrap import dedent
from typing import Any

OPEN, CLOSE = "<think>", "</think>"

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
        return not self.thinking.strip()


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
        text.count(OPEN) == 1 and text.count(CLOSE) == 1 and text.lstrip("\n").startswith(OPEN) and bool(answer.strip())
    )
    return Thinking(
        thinking=thinking.strip("\n"), answer=answer.strip(), opened=opened, closed=True, well_formed=well_formed
    )


def answer_of(text: str) -> str:
    """What a person reads: the text behind `</think>`; empty if the block was never closed."""
    return split_thinking(text).answer


FLAGS = ("/think", "/no_think")


def last_flag(texts: Sequence[str]) -> str | None:
    """The last `/think` or `/no_think` in the user and system turns `texts`, which decides the mode.

    Returns "think", "no_think" or None (no flag: the default mode, thinking).

    A flag switches the mode; a mention of it does not. The rule is ours, since the report only shows `{query} /think`.
    A flag is a separate word at the beginning or end of a line. It does not count in code (fenced, in backticks,
    indented after an empty line, `<code>`), in a quotation (`> ...`, quotation marks), or in a tool's result. So "What
    does /no_think do?" and a pasted log switch nothing, and "Use /no_think" does.

    >>> last_flag(["2+2? /no_think", 'Why did it print "/think"?', "And 3+3?"])
    'no_think'
    """
    for text in reversed(texts):
        found = _flag_of(text)
        if found:
            return found[1:]
    return None


def flag_in_force(messages: Sequence[Mapping[str, Any]]) -> str | None:
    """`last_flag` of a conversation's user and system turns, in their order."""
    switches = [m.get("content") for m in messages if m.get("role") in ("user", "system")]
    return last_flag([text for text in switches if isinstance(text, str)])


def _flag_of(text: str) -> str | None:
    if not any(flag in text for flag in FLAGS):
        return None
    if text.lstrip().startswith("<tool_response>") and text.rstrip().endswith("</tool_response>"):
        return None  # Qwen3's template takes it for a tool's turn
    for line in reversed(_own_words(text).splitlines()):
        words = line.split()
        if words and _BULLET.fullmatch(words[0]) and all(word in FLAGS for word in words[1:]):
            continue  # a list of flags
        first = list(takewhile(FLAGS.__contains__, words))
        last = list(takewhile(FLAGS.__contains__, reversed(words)))
        if last or first:
            return (last or first[-1:])[0]
    return None


_BULLET = re.compile(r"[-*+•]|\(?\d{1,3}[.)]")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)")
_MARK = re.compile(r"`+|\"{3}|[\"“”„«»「」]|</?(?:code|pre|blockquote|q)\b[^<>\n]{0,200}>|\n[ \t]*\n", re.IGNORECASE)
_CLOSING = {"“": "”", "„": "“”", "«": "»", "»": "«", "「": "」"}
_SOMETHING = " \N{HORIZONTAL ELLIPSIS} "  # stands where a quotation stood, so that no other word gets to an edge


def _own_words(text: str) -> str:
    """`text` without code and quotations."""
    kept: list[str] = []
    fence, empty, indented = "", True, False
    for line in dedent(text).splitlines():
        mark = _FENCE.match(line)
        if fence:
            # Only flags may follow an end: they are appended to a query with a space, whatever it ends with.
            ends = mark and mark[1].startswith(fence) and all(word in FLAGS for word in mark[2].split())
            fence, line = ("", mark[2]) if ends and mark else (fence, "")
        elif mark and "`" not in mark[2]:
            fence, line = mark[1], ""
        indented = line.startswith(("    ", "\t")) and (empty or indented)
        empty = not line.strip()
        kept.append("" if indented or line.lstrip().startswith(">") else line)
    return _unquoted("\n".join(kept))


def _unquoted(text: str) -> str:
    """Remove from `text` everything in backticks, tags or quotation marks; a mark without its end hides nothing."""
    marks = list(_MARK.finditer(text))
    ends = _ends(text, marks)
    parts, done, at = [], 0, 0
    while at < len(marks):
        if at in ends:
            parts += [text[done : marks[at].start()], _SOMETHING]
            at = ends[at]
            done = marks[at].end()
        at += 1
    return "".join([*parts, text[done:]])


def _ends(text: str, marks: Sequence[re.Match[str]]) -> dict[int, int]:
    """For each mark that opens something, by its place among `marks`, the place of the one that ends it."""
    found: dict[int, int] = {}
    nearest: dict[str, int] = {}
    for at in range(len(marks) - 1, -1, -1):
        mark = marks[at][0].lower()
        start, end = marks[at].span()
        before, after = text[max(start - 1, 0) : start], text[end : end + 1]
        opens, closes, ending = True, True, _CLOSING.get(mark, mark)
        if mark[0] == "\n":  # backticks end within their paragraph; quotations go on
            nearest = {key: place for key, place in nearest.items() if key[0] != "`"}
            continue
        if mark[0] == "<":
            name = mark.strip("</>").split()[0]
            opens, closes, ending = mark[1] != "/", mark[1] == "/", f"</{name}>"
        elif mark == '"':  # 5" is no quotation
            opens = not _wordlike(before) and bool(after.strip())
            closes = not _wordlike(after) and bool(before.strip())
        keys = ending if mark in _CLOSING else (ending,)
        places = [nearest[key] for key in keys if key in nearest]
        if opens and places:
            found[at] = min(places)
        if closes:
            nearest[ending if mark[0] == "<" else mark] = at
    return found


def _wordlike(character: str) -> bool:
    return character.isalnum() or character == "_"
