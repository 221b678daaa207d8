"""Evaluates LaTeX arithmetic on rational numbers, exactly and within bounds: no floats, no eval.

What it reads: integers, decimals, thousands separators, 1.5e-3, + - * / ^ !, implicit products, \\frac, \\sqrt of
squares, mixed numbers. Anything else is `Unreadable`; what would be huge is `TooLarge`, without computing it.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction

MAX_BITS = 8192
MAX_LENGTH = 3000
MAX_DEPTH = 40
_NUMBER = re.compile(
    r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d*)?(?:[eE][+-]?\d{1,4}(?!\d))?|\.\d+(?:[eE][+-]?\d{1,4})?"
)
_MIXED = re.compile(r"(-?)\s*(\d{1,15})\s+(\d{1,15})\s*/\s*(\d{1,15})")


class Unreadable(Exception):
    """Not arithmetic on rationals."""


class TooLarge(Exception):
    """A number, or an expression, beyond any honest answer."""


def evaluate(text: str) -> Fraction:
    """The value of `text`. Raises Unreadable or TooLarge."""
    if len(text) > MAX_LENGTH:
        raise TooLarge
    if mixed := _MIXED.fullmatch(text.strip()):
        sign, whole, top, bottom = mixed.groups()
        return (-1 if sign else 1) * (int(whole) + _divide(Fraction(int(top)), Fraction(int(bottom))))
    parser = _Parser(text)
    value = parser.sum(0)
    if parser.peek():
        raise Unreadable
    return value


def _bounded(value: Fraction) -> Fraction:
    if value.numerator.bit_length() > MAX_BITS or value.denominator.bit_length() > MAX_BITS:
        raise TooLarge
    return value


def _divide(a: Fraction, b: Fraction) -> Fraction:
    if not b:
        raise Unreadable
    return _bounded(a / b)


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        return _root(base, exponent)
    if base in (0, 1, -1):
        if base == 0 and exponent <= 0:
            raise Unreadable
        return base if exponent % 2 else abs(base)
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if abs(exponent) * (bits - 1) > MAX_BITS or abs(exponent) > MAX_BITS:
        raise TooLarge
    return _bounded(base ** int(exponent))


def _root(base: Fraction, exponent: Fraction) -> Fraction:
    """Square roots of squares; other roots are left to symbolic mathematics."""
    if exponent != Fraction(1, 2) or base < 0:
        raise Unreadable
    top, bottom = math.isqrt(base.numerator), math.isqrt(base.denominator)
    if top * top != base.numerator or bottom * bottom != base.denominator:
        raise Unreadable
    return Fraction(top, bottom)


class _Parser:
    """Recursive descent, one character of look-ahead, bounded depth."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0

    def peek(self) -> str:
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1
        return self.text[self.at : self.at + 1]

    def take(self, token: str) -> bool:
        self.peek()
        if not self.text.startswith(token, self.at):
            return False
        self.at += len(token)
        return True

    def sum(self, depth: int) -> Fraction:
        value = self.product(depth)
        while (sign := self.peek()) and sign in "+-":
            self.at += 1
            term = self.product(depth)
            value = _bounded(value + term if sign == "+" else value - term)
        return value

    def product(self, depth: int) -> Fraction:
        value = self.signed(depth)
        while True:
            if self.take("*"):
                value = _bounded(value * self.signed(depth))
            elif self.take("/"):
                value = _divide(value, self.signed(depth))
            elif self.peek() in ("(", "{") or self.text.startswith(("\\frac", "\\sqrt"), self.at):
                value = _bounded(value * self.power(depth))
            else:
                return value

    def signed(self, depth: int) -> Fraction:
        if depth > MAX_DEPTH:
            raise TooLarge
        if self.take("-"):
            return -self.signed(depth + 1)
        if self.take("+"):
            return self.signed(depth + 1)
        return self.power(depth)

    def power(self, depth: int) -> Fraction:
        base = self.postfix(depth)
        if not self.take("^"):
            return base
        return _power(base, self.argument(depth + 1))

    def postfix(self, depth: int) -> Fraction:
        value = self.atom(depth)
        while self.take("!"):
            if value.denominator != 1 or value < 0:
                raise Unreadable
            if value > 900:
                raise TooLarge
            value = _bounded(Fraction(math.factorial(int(value))))
        return value

    def atom(self, depth: int) -> Fraction:
        if depth > MAX_DEPTH:
            raise TooLarge
        for opening, closing in (("(", ")"), ("{", "}")):
            if self.take(opening):
                value = self.sum(depth + 1)
                if not self.take(closing):
                    raise Unreadable
                return value
        if self.take("\\frac"):
            return _divide(self.argument(depth + 1), self.argument(depth + 1))
        if self.take("\\sqrt"):
            if self.peek() == "[":
                raise Unreadable
            return _root(self.argument(depth + 1), Fraction(1, 2))
        return self.number(depth)

    def number(self, depth: int) -> Fraction:
        self.peek()
        match = _NUMBER.match(self.text, self.at)
        if not match:
            raise Unreadable
        digits = match.group().replace(",", "")
        if len(digits) > MAX_BITS // 4:
            raise TooLarge
        self.at = match.end()
        value = _bounded(Fraction(digits.rstrip(".") if digits.endswith(".") else digits))
        if digits.isdigit() and self.text.startswith("\\frac", self.at):  # 1\frac{1}{2} is a mixed number
            return value + self.atom(depth + 1)
        following = self.text[self.at :].lstrip()[:1]
        if following.isdigit() or following == ".":
            raise Unreadable  # two numbers side by side
        return value

    def argument(self, depth: int) -> Fraction:
        """What a command or ^ applies to: a group, or one character."""
        if self.peek() in ("{", "\\"):
            return self.atom(depth)
        if self.peek().isdigit():
            self.at += 1
            return Fraction(int(self.text[self.at - 1]))
        if self.take("-"):
            return -self.argument(depth)
        return self.atom(depth)
