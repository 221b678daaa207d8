"""Finds the final answer of a solution: the last \\boxed{...}, in one pass whatever the text."""

from __future__ import annotations

import re

_MARKS = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)


def last_boxed(text: str) -> str | None:
    """What stands in the last outermost box, without the box; None if there is none or it is never closed.

    A box that is still open at the end means that the text was cut: an earlier box is not the answer then.

    >>> last_boxed(r"first \\boxed{3}, no: \\boxed{\\frac{1}{2}}")
    '\\\\frac{1}{2}'
    """
    found: str | None = None
    stack: list[int | None] = []  # where a box's content starts; None for a plain brace
    boxes = 0
    for mark in _MARKS.finditer(text):
        token = mark.group()
        if token == "{":
            stack.append(None)
        elif token == "}":
            start = stack.pop() if stack else None
            if start is not None:
                boxes -= 1
                if boxes == 0:
                    found = text[start : mark.start()]
        elif token.endswith("{") and len(token) > 2:
            stack.append(mark.end())
            boxes += 1
    return None if boxes else found
