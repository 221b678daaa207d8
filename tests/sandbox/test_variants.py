"""Each variant gets a verdict of its own, never a pass nor an infra_error, and its threads stay few."""

from typing import Any

import psutil
import pytest

from posttrain.sandbox.jobs import Job
from posttrain.sandbox.supervisor import Judge

from .hostile_variants import CASES


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_no_variant_passes_or_escapes_its_score(judge: Judge, case: dict[str, Any]) -> None:
    job = Job(id="x", code=case["code"], tests=(case["tests"],), entry=case["entry"], timeout_s=0.5, memory_mb=256)
    verdict = judge.run(job)
    assert verdict.outcome not in ("pass", "infra_error"), verdict
    assert psutil.Process(judge.zygote_pid).children(recursive=True) == []
    if case["name"] == "threads_without_python" and judge.tier != "C":  # nothing imports there that could start them
        assert (verdict.outcome, verdict.message) == ("crash", "more than 512 threads")


def test_an_argument_of_the_tests_own_that_is_too_large_is_nobodys_fault(judge_b: Judge) -> None:
    for tests in ("assert f([0] * 10**6) == 1", "big = [0] * 10**6\nassert f(2) == 1\nassert f(big) == 1",
                  "def check(g):\n    assert g('x' * 10**7) == 1\ncheck(f)",
                  "import math\nassert math.isclose(f(2), 1)\nassert math.isclose(f([0] * 10**6), 1)",
                  "import unittest\nclass T(unittest.TestCase):\n    def test(self):\n        f(2)\n"
                  "        self.assertEqual(f([0] * 10**6), 1)\nunittest.main()",
                  ):  # fmt: skip
        assert judge_b.run(Job(id="x", code="def f(x): return 1", tests=(tests,))).outcome == "infra_error"


def test_a_callback_whose_answer_is_too_large_raises_in_the_solution(judge_b: Judge) -> None:
    code = "def f(g):\n    try: g(10**6)\n    except ValueError: return g(2)"
    assert judge_b.run(Job(id="x", code=code, tests=("assert f(lambda n: [0] * n) == [0, 0]",))).outcome == "pass"
