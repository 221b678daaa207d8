"""Finds the program in an answer: fenced code blocks, as CommonMark 0.31 (section 4.5) reads them."""

from __future__ import annotations

import re

from posttrain.sandbox.languages import LANGUAGES

_FENCE = re.compile(r"^(?P<indent>[ \t]*)(?P<marks>`{3,}|~{3,})[ \t]*(?P<info>[^\n]*)$", re.MULTILINE)
PYTHON = ("python", "py", "python3")
UNMARKED = ("",)


def blocks(text: str) -> list[tuple[str, str]]:
    """(language in small letters, content) of each closed fenced block, in order.

    A fence is closed by one of the same character, at least as long, with nothing behind it; so a block may show
    another one. Inside a list, the opening fence's indentation is taken from each line.
    """
    found: list[tuple[str, str]] = []
    opened: re.Match[str] | None = None
    for mark in _FENCE.finditer(text):
        if opened is None:
            if not (mark["marks"][0] == "`" and "`" in mark["info"]):  # that would be code within a line
                opened = mark
        elif mark["marks"].startswith(opened["marks"]) and not mark["info"].strip():
            content = text[opened.end() + 1 : mark.start()]
            found.append((_language(opened["info"]), _dedent(content, len(opened["indent"]))))
            opened = None
    return found


def fences(language: str | None) -> tuple[str, ...]:
    """The words that mark blocks of a language; None is Python. Raises KeyError for a language that isn't known."""
    return PYTHON if language is None else LANGUAGES[language].fences


def last_block(text: str, languages: tuple[str, ...] = PYTHON) -> str | None:
    """The last closed block in one of `languages`, else the last unmarked one; None without either."""
    everything = blocks(text)
    for wanted in (languages, UNMARKED):
        matching = [code for language, code in everything if language in wanted]
        if matching:
            return matching[-1]
    return None


def _language(info: str) -> str:
    words = info.strip().strip("{}").lstrip(".").split()
    return re.split(r"[\s,:{]", words[0])[0].lower() if words else ""


def _dedent(content: str, width: int) -> str:
    if not width:
        return content
    return re.sub(rf"^[ \t]{{1,{width}}}", "", content, flags=re.MULTILINE)
