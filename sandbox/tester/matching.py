"""Whether a result is what a test of plain data expects. The expected value may come from JSON, which knows less.

- Tuples are lists, arrays of numpy are lists, and keys of a dict that JSON can't write are as JSON writes them:
  {1: 2} is {"1": 2}, {None: 1} is {"null": 1}; not if two keys become one.
- A set is only a set, never a list: where JSON must say one, as {"$set": [1, 2]}.
- Floats may differ by 1 part in 10^9, and by 1e-9 where 0 is expected (1e-15 elsewhere: tiny numbers are numbers); or
  by the job's `float_tolerance`, relative or absolute. An int is 3 as well as 3.0, exactly; NaN is NaN; True isn't 1.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

from posttrain.sandbox import arrays

RELATIVE, NEAR_ZERO, TINY = 1e-9, 1e-9, 1e-15
SET = "$set"
_EXACT = 1 << 53
_MOST_UNLIKE = 2000
"""Members of a set that are compared one by one with those expected, where they aren't equal outright."""


def matches(actual: Any, expected: Any, tolerance: float | None = None) -> bool:
    """Never raises for plain data; a stand-in for an object of the solution matches nothing.

    >>> matches((1, 2.0), [1, 2]), matches({1: float("nan")}, {"1": float("nan")}), matches({1, 2}, {"$set": [2, 1]})
    (True, True, True)
    """
    if arrays.is_array(actual) or arrays.is_scalar(actual):
        actual = actual.tolist()
    if isinstance(expected, dict) and len(expected) == 1 and SET in expected:
        return isinstance(actual, set | frozenset) and _same_members(actual, expected[SET], tolerance)
    if isinstance(actual, bool) or isinstance(expected, bool):
        return actual is expected
    if isinstance(actual, int | float) and isinstance(expected, int | float):
        return _same_number(actual, expected, tolerance)
    if isinstance(actual, list | tuple) and isinstance(expected, list | tuple):
        return len(actual) == len(expected) and all(
            matches(a, e, tolerance) for a, e in zip(actual, expected, strict=True)
        )
    if isinstance(actual, dict) and isinstance(expected, dict):
        return _same_mapping(actual, expected, tolerance)
    if type(actual) in (str, bytes, bytearray, complex, set, frozenset) or actual is None:
        return bool(actual == expected)
    return type(actual).__module__ in ("decimal", "fractions", "datetime", "collections", "builtins") and bool(
        actual == expected
    )


def _same_number(actual: float, expected: float, tolerance: float | None) -> bool:
    if isinstance(actual, int) and isinstance(expected, int):
        return actual == expected
    if actual != actual or expected != expected:  # NaN
        return actual != actual and expected != expected
    if (abs(expected) >= _EXACT and isinstance(expected, int)) or (isinstance(actual, int) and abs(actual) >= _EXACT):
        return actual == expected
    if tolerance is not None:
        return math.isclose(actual, expected, rel_tol=tolerance, abs_tol=tolerance)
    return math.isclose(actual, expected, rel_tol=RELATIVE, abs_tol=TINY if expected else NEAR_ZERO)


def _same_mapping(actual: dict[Any, Any], expected: dict[Any, Any], tolerance: float | None) -> bool:
    if len(actual) != len(expected):
        return False
    if actual.keys() != expected.keys():
        named = {_json_key(k): v for k, v in actual.items()}
        if len(named) != len(actual) or named.keys() != expected.keys():
            return False
        actual = named
    return all(matches(v, expected[k], tolerance) for k, v in actual.items())


def _json_key(key: Any) -> Any:
    if key is None or isinstance(key, bool | int | float):
        return json.dumps(key)
    return key


def _same_members(actual: Iterable[Any], expected: Any, tolerance: float | None) -> bool:
    found = list(actual)
    if not isinstance(expected, list | tuple) or len(found) != len(expected):
        return False
    left = list(expected)
    for member in found:
        if member in left:
            left.remove(member)
            continue
        near = next((e for e in left[:_MOST_UNLIKE] if matches(member, e, tolerance)), None)
        if near is None:
            return False
        left.remove(near)
    return True
