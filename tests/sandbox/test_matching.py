"""Calls: what counts as the expected value."""

import math
from typing import Any

import pytest

from posttrain.sandbox.jobs import Job, job_from_json
from posttrain.sandbox.supervisor import Judge
from posttrain.sandbox.tester.matching import matches

NAN = float("nan")


@pytest.mark.parametrize(
    ("actual", "expected", "same"),
    [
        ({1: 2}, {"1": 2}, True),
        ({1: 2, "1": 3}, {"1": 2}, False),
        ({1: 2, "1": 2}, {"1": 2, "2": 2}, False),
        ({None: 1, True: 2, 1.5: 3}, {"null": 1, "true": 2, "1.5": 3}, True),
        ({"1": 2}, {1: 2}, False),
        ({(1, 2): 3}, {(1, 2): 3}, True),
        ((1, (2,)), [1, [2]], True),
        ([1, 2], [1, 2, 3], False),
        (0.1 + 0.2, 0.3, True),
        (1e-12, 2e-12, False),
        (1.0000000000001e-12, 1e-12, True),
        (1e-17, 0, True),
        (1e-8, 0.0, False),
        (0.0, 1.2246e-16, True),
        (3.0, 3, True),
        (3, 3.0, True),
        (True, 1, False),
        (1, True, False),
        (float(2**60), 2**60 + 1, False),
        (2**60, 2**60 + 1, False),
        (NAN, NAN, True),
        ([NAN], [NAN], True),
        (NAN, 1.0, False),
        (1.0, NAN, False),
        (math.inf, math.inf, True),
        (math.inf, 1e308, False),
        ({1, 2}, [1, 2], False),
        ({1, 2}, {"$set": [2, 1]}, True),
        ({1, 2}, {"$set": [2, 1, 1]}, False),
        ([1, 2], {"$set": [1, 2]}, False),
        ({(1, 2)}, {"$set": [[1, 2]]}, True),
        ({0.1 + 0.2}, {"$set": [0.3]}, True),
        ({"$set": [1]}, {"$set": [1]}, False),
        ("a", "a", True),
        ("1", 1, False),
        (None, None, True),
        (None, False, False),
        (b"a", "a", False),
    ],
)
def test_a_result_is_what_was_expected(actual: Any, expected: Any, same: bool) -> None:
    assert matches(actual, expected) is same


def test_a_tolerance_of_the_job_counts_for_calls(judge_b: Judge) -> None:
    row = {"code": "def f(): return 0.34", "tests": [{"args": [], "expected": 0.33}], "entry": "f"}
    assert judge_b.run(job_from_json(row)).outcome == "wrong"
    assert judge_b.run(job_from_json({**row, "float_tolerance": 0.05})).outcome == "pass"


@pytest.mark.parametrize(
    ("code", "args", "expected", "outcome"),
    [
        ("def f(x): return {int(k): v for k, v in x.items()}", [{"1": 2}], {"1": 2}, "pass"),
        ("async def f(x): return x", [1], 1, "pass"),
        ("def f(x): return set(x)", [[1, 1, 2]], {"$set": [1, 2]}, "pass"),
        ("class E:\n    __eq__ = lambda s, o: 1\n    tolist = lambda s: [1]\ndef f(x): return E()", [1], [1], "wrong"),
        ("class E(set):\n    def __eq__(s, o): return True\ndef f(x): return E()", [1], {"$set": [1]}, "wrong"),
    ],
)  # fmt: skip
def test_calls_compare_plain_data(judge_b: Judge, code: str, args: list[Any], expected: Any, outcome: str) -> None:
    job = Job(id="x", code=code, tests=((args, expected),), kind="calls", entry=("f",))
    assert judge_b.run(job).outcome == outcome
