"""The soft switches `/think` and `/no_think`: which one is in force, how one is put on a prompt; the last one wins."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import takewhile
from textwrap import dedent
from typing import Any

from posttrain.errors import DataError
from posttrain.types import Message, Prompt

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


def with_mode(prompt: Prompt) -> tuple[Message, ...]:
    """The prompt's messages, a soft switch appended to the last user turn (report, Table 9: after a space)."""
    if prompt.mode not in ("think", "no_think"):
        return prompt.messages
    return with_flag(prompt.messages, f"/{prompt.mode}")


def with_flag(messages: Sequence[Message], flag: str) -> tuple[Message, ...]:
    """Append `flag` to the last user turn, after a space (report, Table 9).

    Where a flag at the end would be part of a quotation or of code, it is written on a separate line, after the turn or
    before it.
    """
    last = max((i for i, m in enumerate(messages) if m["role"] == "user"), default=None)
    if last is None:
        raise DataError("a prompt has no user turn to put a flag on")
    return (
        *messages[:last],
        {**messages[last], "content": flagged(messages[last]["content"], flag)},
        *messages[last + 1 :],
    )


def with_system_flag(messages: Sequence[Message], flag: str) -> tuple[Message, ...]:
    """Append `flag` to the system message; without one, the flag alone becomes it (report, 4.3: either place)."""
    if messages and messages[0]["role"] == "system":
        return ({**messages[0], "content": flagged(messages[0]["content"], flag)}, *messages[1:])
    return ({"role": "system", "content": flag}, *messages)


def flagged(text: str, flag: str) -> str:
    """`text` with `flag` where it counts."""
    forms = (f"{text} {flag}", f"{text}\n{flag}", f"{flag}\n{text}")
    return next((form for form in forms if last_flag([form]) == flag[1:]), forms[0])


def without_flag(messages: Sequence[Message], flag: str) -> tuple[Message, ...]:
    """Undo `with_flag`: `flag` is gone from the end of each user turn that has it there."""

    def bare(text: str) -> str:
        return text.removesuffix(flag)[:-1] if text.endswith((f" {flag}", f"\n{flag}")) else text

    return tuple({**m, "content": bare(m["content"])} if m["role"] == "user" else m for m in messages)


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
    """`text` without the content of backticks, tags or quotation marks; a mark without its end hides nothing."""
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
