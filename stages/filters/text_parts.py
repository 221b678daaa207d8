"""What several filters look at: numbers as values, sentences, and prose without code."""

from __future__ import annotations

import re
from fractions import Fraction

_NUMBER = re.compile(r"(?<![\w.])(\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(\s*%|\\%)?")
_LATEX_FRACTION = re.compile(r"\\[dt]?frac\s*\{\s*(-?\d+)\s*\}\s*\{\s*(\d+)\s*\}")
_SLASH = re.compile(r"(?<![\w./])(\d+)\s*/\s*(\d+)(?![\w/])")
_WORDS = {
    word: value
    for value, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen twenty".split()
    )
} | {"thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90, "hundred": 100}
_WORD = re.compile(rf"\b({'|'.join(_WORDS)})\b", re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?<=[.!?。！？])[\s\"')]+|(?<=[。！？])|\n+")
_FENCED = re.compile(r"^[ \t]{0,3}(```|~~~).*?(?:^[ \t]{0,3}\1[ \t]*$|\Z)", re.DOTALL | re.MULTILINE)


def without_code(text: str) -> str:
    """The text without fenced blocks."""
    return _FENCED.sub("\n", text)


def sentences(text: str) -> list[str]:
    """Sentences and lines of a text, none of them empty.

    >>> sentences("First. Second!\\nThird")
    ['First.', 'Second!', 'Third']
    """
    return [part.strip() for part in _SENTENCE_END.split(text) if part.strip()]


def values(text: str) -> set[Fraction]:
    """The sizes of all numbers of a text, in whatever form they are written; signs and units aside.

    >>> sorted(values("1,200 and 50% or twelve")) == [Fraction(1, 2), 12, 50, 1200]
    True
    """
    found: set[Fraction] = set()
    for pattern in (_LATEX_FRACTION, _SLASH):
        for top, bottom in pattern.findall(text):
            if int(bottom):
                found.add(abs(Fraction(int(top), int(bottom))))
    for digits, percent in _NUMBER.findall(text):
        if len(digits) > 300:  # no number that anybody means
            continue
        value = Fraction(digits.replace(",", ""))
        found.add(value)
        if percent:
            found.add(value / 100)
    found.update(Fraction(_WORDS[word.lower()]) for word in _WORD.findall(text))
    return found


def numerals(text: str) -> list[str]:
    """Numbers as they are written, in order, thousands joined."""
    return [digits.replace(",", "") for digits, _ in _NUMBER.findall(text)]
