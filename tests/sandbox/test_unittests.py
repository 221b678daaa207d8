"""TestCase classes are tests by themselves, however the text runs them; no way of running them passes in vain."""

import pytest

from posttrain.sandbox.jobs import Job
from posttrain.sandbox.supervisor import Judge

CLASS = """import unittest
class TestF(unittest.TestCase):
    @classmethod
    def setUpClass(cls): cls.one = 1
    def setUp(self): self.two = 2
    def test_plain(self): self.assertEqual(f(self.one), 2)
    def test_raises(self):
        with self.assertRaises(ValueError): f(-1)
    def helper(self): raise NotImplementedError
"""
RUNS = {
    "nothing runs them": "",
    "main": "unittest.main()",
    "main that goes on": "unittest.main(argv=[''], exit=False)",
    "main, guarded": "if __name__ == '__main__':\n    unittest.main()",
    "a runner": "unittest.TextTestRunner().run(unittest.defaultTestLoader.loadTestsFromTestCase(TestF))",
    "a suite in two steps": "s = unittest.TestLoader().loadTestsFromTestCase(TestF)\nunittest.TextTestRunner().run(s)",
}
ASSERTS = {
    "main": "assert unittest.main(argv=[''], exit=False).result.wasSuccessful()",
    "a result": "r = unittest.TestResult()\nunittest.defaultTestLoader.loadTestsFromTestCase(TestF).run(r)\n"
    "assert not r.failures and not r.errors and r.testsRun == 2",
}
RIGHT = "def f(x):\n    if x < 0: raise ValueError\n    return x + 1"
WRONG = {"value": RIGHT.replace("+ 1", "+ 2"), "error": "def f(x): return x + 1", "nothing": "def f(x): pass"}
SKIPS = "import unittest\ndef f(x): raise unittest.SkipTest"


def run(judge: Judge, code: str, tests: str) -> tuple[str, tuple[str, ...]]:
    verdict = judge.run(Job(id="x", code=code, tests=(CLASS + tests,), entry=("f",)))
    return verdict.outcome, verdict.results


@pytest.mark.parametrize("name", RUNS)
def test_each_method_is_a_test(judge_b: Judge, name: str) -> None:
    assert run(judge_b, RIGHT, RUNS[name]) == ("pass", ("pass", "pass"))
    assert run(judge_b, WRONG["value"], RUNS[name]) == ("wrong", ("failed", "pass"))
    assert run(judge_b, WRONG["error"], RUNS[name]) == ("wrong", ("pass", "failed"))
    assert run(judge_b, WRONG["nothing"], RUNS[name]) == ("wrong", ("failed", "failed"))
    assert run(judge_b, SKIPS, RUNS[name]) == ("wrong", ("failed", "failed"))


@pytest.mark.parametrize("name", ASSERTS)
def test_a_text_that_asserts_what_they_gave_is_the_test(judge_b: Judge, name: str) -> None:
    assert run(judge_b, RIGHT, ASSERTS[name]) == ("pass", ("pass",))
    assert {run(judge_b, code, ASSERTS[name])[0] for code in WRONG.values()} == {"wrong"}


def test_a_solution_that_dies_within_one_fails(judge_b: Judge) -> None:
    assert run(judge_b, "import os\ndef f(x): os._exit(0)", "")[0] == "crash"


def test_a_class_is_called_as_its_author_did(judge_b: Judge) -> None:
    tests = "import unittest\nclass T(unittest.TestCase):\n    def test(self): self.assertEqual(f(1), 2)\n"
    job = Job(id="x", code=RIGHT, tests=(tests + "assert f(2) == 3", "unittest.main()"), entry=("f",))
    assert judge_b.run(job).results == ("pass", "pass")


@pytest.mark.parametrize("tests", ["print(f(1))", "import doctest\ndoctest.testmod()", "import pytest\npytest.main()"])
def test_what_ends_well_in_any_case_is_no_test(judge_b: Judge, tests: str) -> None:
    assert judge_b.run(Job(id="x", code=RIGHT, tests=(tests,), entry=("f",))).outcome == "infra_error"
