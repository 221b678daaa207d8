"""A calculator: exact arithmetic on fractions, within bounds. Python's parser reads; nothing is run."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from fractions import Fraction

from posttrain.rewards.environments.base import Environment

DIGITS = 12
"""Of a result that is no short decimal, in its approximation."""
LONGEST = 500
MAX_BITS = 4096
_TOO_LARGE = "the numbers are too large"

_BINARY: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction | int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


class Calculator(Environment):
    """Arithmetic on numbers of any length."""

    def calculator(self, expression: str) -> str:
        """Works out an arithmetic expression.

        Args:
            expression: numbers with + - * / // % ^ and parentheses, e.g. 12 * (34 + 5)
        """
        return _shown(evaluate(expression))


def evaluate(expression: str) -> Fraction:
    """The value of an expression of numbers; ^ is a power.

    Raises:
        ValueError: it is none, or its numbers are too large.
        ZeroDivisionError: as it says.
    """
    unreadable = ValueError(f"can't read {expression[:80]!r}")
    if len(expression) > LONGEST:
        raise ValueError(f"an expression may have {LONGEST} characters")
    try:
        tree = ast.parse(expression.strip().replace("^", "**").replace(",", ""), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise unreadable from None
    try:
        return _value(tree.body)
    except TypeError:
        raise unreadable from None


def _value(node: ast.expr) -> Fraction:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        return _bounded(Fraction(str(node.value)))  # 0.1 is a tenth
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        return -_value(node.operand) if isinstance(node.op, ast.USub) else _value(node.operand)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        return _power(_value(node.left), _value(node.right))
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        return _bounded(Fraction(_BINARY[type(node.op)](_value(node.left), _value(node.right))))
    raise TypeError


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        raise ValueError("an exponent must be a whole number")
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if bits > 1 and bits * abs(exponent) > MAX_BITS:
        raise ValueError(_TOO_LARGE)
    return Fraction(base**exponent.numerator)


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise ValueError(_TOO_LARGE)
    return value


def _shown(value: Fraction) -> str:
    if value.denominator == 1:
        return str(value.numerator)
    decimal = f"{float(value):.{DIGITS}g}" if abs(value) < 10**DIGITS else str(value)
    return decimal if Fraction(decimal) == value else f"{value} (about {decimal})"
