"""Code rewards: which program of an answer is judged, by which tests, and what that pays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from posttrain.errors import SandboxError
from posttrain.rewards.contract import RowError
from posttrain.rewards.programs.code import code, code_stdio
from posttrain.rewards.programs.code_blocks import blocks, last_block
from posttrain.sandbox.jobs import Job, Outcome, Verdict
from posttrain.sandbox.supervisor import Judge

BLOCK = "```python\nprint(1)\n```"
PAIR = {"input": "1", "output": "2"}


class Recorder:
    """A judge that remembers its jobs and gives one verdict to all."""

    def __init__(self, outcome: Outcome = "pass", passed: int = 1, total: int = 1) -> None:
        self.jobs: list[Job] = []
        self._verdict = Verdict(id="", outcome=outcome, passed=passed, total=total)

    def judge(self, jobs: Sequence[Job]) -> list[Verdict]:
        self.jobs += jobs
        return [self._verdict] * len(jobs)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("```python\na\n```\n```py\nb\n```", "b\n"),
        ("```python\na\n```\n```bash\nb\n```", "a\n"),
        ("```\na\n```\n```bash\nb\n```", "a\n"),
        ("```python\na\n```\n```\noutput\n```", "a\n"),
        ("```Python3 title=x\na\n```", "a\n"),
        ("~~~python\na\n~~~", "a\n"),
        ("````python\nx = '''\n```\n'''\n````", "x = '''\n```\n'''\n"),
        ("- so:\n  ```python\n  if a:\n      b\n  ```", "if a:\n    b\n"),
        ("```python\na", None),
        ("```python\na\n```\n```python\nunfinished", "a\n"),
        ("```bash\na\n```", None),
        ("`python`", None),
        ("```python\n```", ""),
        ("", None),
    ],
)
def test_the_last_closed_python_block_is_the_program(text: str, expected: str | None) -> None:
    assert last_block(text) == expected


def test_other_languages_can_be_asked_for() -> None:
    text = "```cpp\nx\n```\n```python\ny\n```"
    assert last_block(text, ("cpp", "c++")) == "x\n"
    assert blocks(text) == [("cpp", "x\n"), ("python", "y\n")]


def test_hidden_tests_count_like_the_shown_ones() -> None:
    judge = Recorder()
    code([None], [BLOCK], ["assert a"], hidden_tests=[["assert b", "assert c"]], judge=judge)
    assert judge.jobs[0].tests == ("assert a", "assert b", "assert c")


def test_hidden_tests_of_another_kind_are_no_verdict_on_the_answer() -> None:
    (value,) = code([None], [BLOCK], ["assert a"], hidden_tests=[[PAIR]], judge=Recorder())
    assert isinstance(value, RowError)


@pytest.mark.parametrize(("credit", "value"), [("all", 0.0), ("fraction", 0.75)])
def test_credit_for_a_part_is_a_choice(credit: Any, value: float) -> None:
    judge = Recorder("wrong", 3, 4)
    assert code([None], [BLOCK], ["assert a"], judge=judge, credit=credit) == [value]
    assert judge.jobs[0].stop_on_first is (credit == "all")


def test_the_judges_failure_is_never_0() -> None:
    (value,) = code([None], [BLOCK], ["assert a"], judge=Recorder("infra_error", 0, 0), credit="fraction")
    assert isinstance(value, RowError)


def test_programs_need_pairs_of_text() -> None:
    judge = Recorder()
    rows: list[Any] = [[PAIR], "assert f()", None, [{"input": 1, "output": 2}]]
    values = code_stdio([None] * 4, [BLOCK] * 4, rows, judge=judge, float_tolerance=1e-6)
    assert [v if not isinstance(v, RowError) else "error" for v in values] == [1.0, "error", None, "error"]
    assert [(j.kind, j.float_tolerance) for j in judge.jobs] == [("stdio", 1e-6)]


def test_a_row_that_can_not_be_judged_is_found_before_the_answer_is_looked_at() -> None:
    values = code([None] * 2, ["no code at all"] * 2, ["assert a", 5], judge=Recorder())
    assert (values[0], isinstance(values[1], RowError)) == (0.0, True)


def test_an_answer_is_judged_for_real() -> None:
    try:
        judge = Judge("B")
    except SandboxError as error:
        pytest.skip(str(error))
    with judge:

        class One:
            def judge(self, jobs: Sequence[Job]) -> list[Verdict]:
                return [judge.run(job) for job in jobs]

        double = "Here:\n```python\nprint(2 * int(input()))\n```\nIt doubles."
        tests = [[PAIR, {"input": "2", "output": "5"}]]
        assert code_stdio([None], [double], tests, judge=One(), credit="fraction") == [0.5]
        assert code_stdio([None], [double], [[PAIR]], judge=One()) == [1.0]


def test_programs_may_be_written_in_another_language() -> None:
    text = "```cpp\nint main() {}\n```\n```python\nprint(1)\n```"
    judge = Recorder()
    assert code_stdio([None], [text], [[PAIR]], judge=judge, language="cpp") == [1.0]
    code_stdio([None] * 2, [text] * 2, [[PAIR]] * 2, judge=judge, language=["cpp", None])
    assert [(j.language, j.code) for j in judge.jobs] == [
        ("cpp", "int main() {}\n"), ("cpp", "int main() {}\n"), (None, "print(1)\n"),
    ]  # fmt: skip
    (value,) = code_stdio([None], [text], [[PAIR]], judge=judge, language="cobol")
    assert isinstance(value, RowError)
    assert code_stdio([None], ["```python\n1\n```"], [[PAIR]], judge=judge, language="cpp") == [0.0]
