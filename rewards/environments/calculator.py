"""A calculator: exact arithmetic on fractions, within bounds. A parser of its own reads; nothing is run."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from fractions import Fraction

from posttrain.rewards.environments.base import Environment

DIGITS = 12
"""Of a result that is no short decimal, in its approximation."""
LONGEST = 500
MAX_BITS = 4096
MAX_DEPTH = 60
"""Parentheses, signs and powers inside each other."""
_TOO_LARGE = "the numbers are too large"
_TOKEN = re.compile(r"\s*(?:(\d[\d_]*(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)|(\*\*|//|[-+*/%^()]))")
_LONGEST_EXPONENT = 4
"""Digits of the exponent of a number such as 1e100."""

_SUMS: dict[str, Callable[[Fraction, Fraction], Fraction | int]] = {"+": operator.add, "-": operator.sub}
_PRODUCTS: dict[str, Callable[[Fraction, Fraction], Fraction | int]] = {
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
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
    if len(expression) > LONGEST:
        raise ValueError(f"an expression may have {LONGEST} characters")
    parser = _Expression(expression)
    value = parser.sum(0)
    if parser.token:
        raise parser.unreadable
    return value


class _Expression:
    """Recursive descent with Python's precedences: one token of look-ahead, bounded depth."""

    def __init__(self, expression: str) -> None:
        self.unreadable = ValueError(f"can't read {expression[:80]!r}")
        self._text, self._at = expression.strip().replace(",", ""), 0
        self.token = ""
        """The token that is next; empty at the end."""
        self._advance()

    def sum(self, depth: int) -> Fraction:
        return self._chain(_SUMS, self._product, depth)

    def _product(self, depth: int) -> Fraction:
        return self._chain(_PRODUCTS, self._signed, depth)

    def _chain(
        self,
        operations: dict[str, Callable[[Fraction, Fraction], Fraction | int]],
        part: Callable[[int], Fraction],
        depth: int,
    ) -> Fraction:
        value = part(depth)
        while self.token in operations:
            operation = operations[self._advance()]
            value = _bounded(Fraction(operation(value, part(depth))))
        return value

    def _signed(self, depth: int) -> Fraction:
        if depth > MAX_DEPTH:
            raise self.unreadable
        if self.token in ("+", "-"):
            return -self._signed(depth + 1) if self._advance() == "-" else self._signed(depth + 1)
        base = self._atom(depth)
        if self.token not in ("**", "^"):
            return base
        self._advance()
        return _power(base, self._signed(depth + 1))  # to the right first: 2^3^2 is 2^9, and -2^2 is -4

    def _atom(self, depth: int) -> Fraction:
        token = self._advance()
        if token == "(":
            value = self.sum(depth + 1)
            if self._advance() != ")":
                raise self.unreadable
            return value
        if not token[:1].isdigit() and token[:1] != ".":
            raise self.unreadable
        exponent = re.search(r"[eE][+-]?(\d+)$", token)
        if exponent and len(exponent[1].lstrip("0")) > _LONGEST_EXPONENT:
            raise ValueError(_TOO_LARGE)
        try:
            return _bounded(Fraction(token))
        except ValueError as error:
            raise error if str(error) == _TOO_LARGE else self.unreadable from None

    def _advance(self) -> str:
        """The token that was next; reads the one after it. Raises ValueError where there is none to read."""
        before = self.token
        match = _TOKEN.match(self._text, self._at)
        if match is None and self._text[self._at :].strip():
            raise self.unreadable
        self.token, self._at = (match[1] or match[2], match.end()) if match else ("", len(self._text))
        return before


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
