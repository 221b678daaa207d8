"""Worked solutions of some reasoning_gym tasks: long-CoT demonstrations without a stronger model to write them. (The
built-in sums and instructions bring theirs along: builtin.py.)

A row of such a task carries the column `solution`, and `builtin:oracle` writes it out as a think block.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any

_OPERATORS: Mapping[type[ast.operator], tuple[str, Callable[[Fraction, Fraction], Fraction]]] = {
    ast.Add: ("+", operator.add),
    ast.Sub: ("-", operator.sub),
    ast.Mult: ("*", operator.mul),
    ast.Div: ("/", operator.truediv),
}


def worked_solution(task: str, entry: Mapping[str, Any]) -> str | None:
    """The steps to the entry's answer, a line each; None if the task has no such steps, or they lead elsewhere."""
    write = WORKED.get(task)
    if write is None:
        return None
    try:
        steps, answer = write(entry["metadata"])
    except (KeyError, SyntaxError, ValueError, ZeroDivisionError):  # another version of the task, or a division by 0
        return None
    return "\n".join(steps) if steps and answer == str(entry["answer"]) else None


def _arithmetic(metadata: Mapping[str, Any]) -> tuple[list[str], str]:
    """One operation a line, inner ones first: 4 - 1 - 7 gives `4 - 1 = 3`, `3 - 7 = -4`."""
    steps: list[str] = []

    def value(node: ast.expr) -> Fraction:
        match node:
            case ast.Constant(value=int(number)):
                return Fraction(number)
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int(number))):
                return Fraction(-number)
            case ast.UnaryOp(op=ast.USub(), operand=operand):  # -(2 + 3)
                return value(ast.BinOp(ast.Constant(0), ast.Sub(), operand))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                first, second = value(left), value(right)
                sign, apply = _OPERATORS[type(op)]
                result = apply(first, second)
                steps.append(f"{first} {sign} {second} = {result}")
                return result
        raise ValueError(ast.unparse(node))

    result = value(ast.parse(metadata["expression"].strip(), mode="eval").body)
    return steps, str(result)


def _letter_counting(metadata: Mapping[str, Any]) -> tuple[list[str], str]:
    """Each word spelled, with the running count: `then: t h e n, 2`."""
    letter, total, steps = metadata["target_letter"], 0, []
    for word in metadata["span"]:
        total += word.lower().count(letter)
        steps.append(f"{word}: {' '.join(word.lower())}, {total}")
    return steps, str(total)


def _number_sorting(metadata: Mapping[str, Any]) -> tuple[list[str], str]:
    """Selection: what is left, and the next of it."""
    falling = metadata["direction"] == "descending"
    return list(selection(metadata["original_numbers"], falling)), str(metadata["sorted_numbers"])


def selection(numbers: list[str], falling: bool) -> Iterator[str]:
    """Selection sort, what is left and the next of it: `7, 3, 5: smallest 3`."""
    left = list(numbers)
    while left:
        chosen = (max if falling else min)(left, key=float)
        yield f"{', '.join(left)}: {'largest' if falling else 'smallest'} {chosen}"
        left.remove(chosen)


WORKED: Mapping[str, Callable[[Mapping[str, Any]], tuple[list[str], str]]] = {
    "chain_sum": _arithmetic,
    "basic_arithmetic": _arithmetic,
    "letter_counting": _letter_counting,
    "number_sorting": _number_sorting,
}
