"""What a verifiable instruction is made of, and how its arguments are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Read = Callable[[Any], Any]
"""Reads one argument of an instruction. Raises ValueError."""


@dataclass(frozen=True, kw_only=True)
class Checker:
    """One of the verifiable instructions.

    >>> Checker(holds=lambda answer, num_words, relation: ..., arguments={"num_words": count, "relation": relation})
    """

    holds: Callable[..., bool]
    """Whether an answer obeys; the arguments come by name."""
    arguments: Mapping[str, Read] = field(default_factory=dict)


def text(value: Any) -> str:
    """Text with something in it."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError("it should be text")
    return value


def texts(value: Any) -> list[str]:
    """A list of such."""
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        raise ValueError("it should be a list of text")
    found = [text(item) for item in value]
    if not found:
        raise ValueError("it should be a list with something in it")
    return found


def count(value: Any) -> int:
    """A whole number from 0 on; 3.0 is one, since tables make floats of columns with gaps."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not float(value).is_integer() or value < 0:
        raise ValueError("it should be a whole number")
    return int(value)


def relation(value: Any) -> str:
    """`at least` or `less than`."""
    if value not in ("at least", "less than"):
        raise ValueError("it should be 'at least' or 'less than'")
    return str(value)


def compares(number: int, wanted: int, relation: str) -> bool:
    """Whether `number` is at least, or less than, what is wanted."""
    return number >= wanted if relation == "at least" else number < wanted
