"""Equality of answers that were read exactly. Three-valued: None where algebra must decide."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fractions import Fraction

from posttrain.rewards.mathematics.latex import (
    Based,
    Expression,
    Group,
    Huge,
    Infinity,
    Many,
    Matrix,
    Number,
    Symbol,
    Union,
    Value,
    Words,
    squeeze,
)

_ATOMS = (Number, Infinity, Symbol, Based)


def equal(gold: Value, answer: Value) -> bool | None:
    """Whether the two are the same value."""
    if isinstance(gold, Huge) or isinstance(answer, Huge):
        return False  # the same text was accepted before
    if isinstance(gold, Words) or isinstance(answer, Words):
        return _same_words(gold, answer)
    if isinstance(gold, Expression) or isinstance(answer, Expression):
        return _with_expression(gold, answer)
    if isinstance(gold, Number) and isinstance(answer, Number):
        return _numbers(gold, answer)
    if isinstance(gold, _ATOMS) and isinstance(answer, _ATOMS):
        return gold == answer
    if isinstance(gold, Union) or isinstance(answer, Union):
        return _unions(gold, answer)
    if isinstance(gold, Group) and isinstance(answer, Group):
        if (gold.opening, gold.closing) != (answer.opening, answer.closing):
            return False
        return _pairwise(gold.items, answer.items)
    if isinstance(gold, Many) and isinstance(answer, Many):
        return _unordered(gold, answer)
    if isinstance(gold, Matrix) and isinstance(answer, Matrix):
        if len(gold.rows) != len(answer.rows):
            return False
        return _all(_pairwise(a, b) for a, b in zip(gold.rows, answer.rows, strict=True))
    if isinstance(gold, _ATOMS) or isinstance(answer, _ATOMS):
        return _one_in_many(gold, answer)
    return None


def _same_words(gold: Value, answer: Value) -> bool:
    a, b = _words(gold), _words(answer)
    return a is not None and a == b


def _words(value: Value) -> str | None:
    """Case folded, without blanks and brackets; None if there is nothing that can be a word."""
    if isinstance(value, Symbol):
        text = value.name
    elif isinstance(value, Words | Expression):
        text = value.text
    else:
        return None
    return re.sub(r"[\s{}()$.]", "", text).casefold() or None


def _with_expression(gold: Value, answer: Value) -> bool | None:
    # An equation or an assertion is no value: `1 = 1` must not become "true".
    texts = [v.text for v in (gold, answer) if isinstance(v, Expression)]
    if len(texts) == 2 and squeeze(texts[0]) == squeeze(texts[1]):
        return True
    return False if len(texts) == 1 and "=" in texts[0] else None


def _numbers(gold: Number, answer: Number) -> bool:
    if gold.unit and answer.unit and gold.unit != answer.unit:
        return False
    if gold.value == answer.value:
        return True
    if gold.percent == answer.percent:
        return False
    percent, plain = (gold, answer) if gold.percent else (answer, gold)
    return percent.value / 100 == plain.value


def _all(verdicts: Iterable[bool | None]) -> bool | None:
    seen = list(verdicts)
    if False in seen:
        return False
    return None if None in seen else True


def _pairwise(gold: Sequence[Value], answer: Sequence[Value]) -> bool | None:
    if len(gold) != len(answer):
        return False
    return _all(equal(a, b) for a, b in zip(gold, answer, strict=True))


def _unordered(gold: Many, answer: Many) -> bool | None:
    is_set = gold.is_set or answer.is_set
    if not is_set and len(gold.items) != len(answer.items):
        return False
    table = [[equal(a, b) for b in answer.items] for a in gold.items]
    if any(v is None for row in table for v in row):
        return None
    if is_set:
        columns = zip(*table, strict=True)
        return all(any(row) for row in table) and all(any(column) for column in columns)
    free = set(range(len(answer.items)))
    for row in table:  # equality is transitive, so that taking the first free partner is enough
        partner = next((j for j in sorted(free) if row[j]), None)
        if partner is None:
            return False
        free.remove(partner)
    return True


def _one_in_many(gold: Value, answer: Value) -> bool | None:
    """A single value against a collection: equal only to a set of that one value."""
    atom, other = (gold, answer) if isinstance(gold, _ATOMS) else (answer, gold)
    if isinstance(other, Many) and len(other.items) == 1:
        return equal(atom, other.items[0])
    return False


# ---------------------------------------------------------------- intervals


def _end(value: Value) -> tuple[int, Fraction] | None:
    """Comparable: infinities below and above all numbers."""
    if isinstance(value, Infinity):
        return value.sign, Fraction(0)
    return (0, value.value) if isinstance(value, Number) else None


def _unions(gold: Value, answer: Value) -> bool | None:
    a, b = _merged(gold), _merged(answer)
    if a is None or b is None:
        return None
    return a == b


_Span = tuple[tuple[int, Fraction], int, tuple[int, Fraction], int]
"""(low end, 0 if it belongs to the interval else 1, high end, 0 if it belongs else -1)"""


def _merged(value: Value) -> list[_Span] | None:
    """Disjoint intervals in order; None if an end isn't a number, or a part isn't an interval."""
    spans: list[_Span] = []
    for part in value.parts if isinstance(value, Union) else (value,):
        if isinstance(part, Many) and part.is_set:
            points = [_end(v) for v in part.items]
            if None in points:
                return None
            spans += [(p, 0, p, 0) for p in points if p is not None]
            continue
        if not isinstance(part, Group) or len(part.items) != 2:
            return None
        low, high = _end(part.items[0]), _end(part.items[1])
        if low is None or high is None:
            return None
        spans.append((low, int(part.opening == "("), high, -int(part.closing == ")")))
    spans.sort()
    merged: list[_Span] = []
    for span in spans:
        last = merged[-1] if merged else None
        # They touch if a point lies in both, or ends meet and one of them belongs.
        if last and (span[0] < last[2] or (span[0] == last[2] and (span[1] == 0 or last[3] == 0))):
            end, belongs = max((last[2], last[3]), (span[2], span[3]))
            merged[-1] = (last[0], last[1], end, belongs)
        else:
            merged.append(span)
    return merged
