import io
import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from posttrain.rewards.cli import list_rewards, score_lines
from posttrain.rewards.contract import RowError
from posttrain.rewards.mathematics.boxed import last_boxed
from posttrain.rewards.programs import code
from posttrain.rewards.rules import format, lengths, modes, text
from posttrain.sandbox.jobs import Job, Verdict

NO = [None]


@pytest.mark.parametrize(
    ("completion", "value"),
    [
        ("<think>\na\n</think>\n\nb", 1),
        ("<think>\n\n</think>\n\nb", 1),
        ("b", 0),
        ("<think>a</think>", 0),
        ("<think>a", 0),
        ("x<think>a</think>b", 0),
        ("<think>a</think>b</think>c", 0),
        ("<think>a<think>b</think>c", 0),
    ],
)
def test_format(completion: str, value: float) -> None:
    assert format.think_format(NO, [completion]) == [value]


THOUGHT, EMPTY, PLAIN = "<think>\na\n</think>\n\nb", "<think>\n\n</think>\n\nb", "b"


@pytest.mark.parametrize(
    ("turns", "mode", "thought", "empty", "plain"),
    [
        (["hi"], None, 1, 0, 0),
        (["hi /no_think"], "default", 0, 1, 0),
        (["hi /no_think", "and now /think"], None, 1, 0, 0),
        (["hi /no_think"], "think", 1, 0, 0),
        (["hi"], "no_think", 0, 1, 0),
        (["hi /think"], "closed", 0, 1, 1),
        (["what does x/no_think mean?"], None, 1, 0, 0),
    ],
)
def test_mode_following(turns: list[str], mode: str | None, thought: int, empty: int, plain: int) -> None:
    prompt = [{"role": "user", "content": t} for t in turns]
    values = modes.mode_following([prompt] * 3, [THOUGHT, EMPTY, PLAIN], mode=[mode] * 3)
    assert values == [thought, empty, plain]


def test_a_flag_of_the_assistant_is_none() -> None:
    prompt = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "say /no_think"}]
    assert modes.wanted_mode(prompt) == "think"


def test_text_rewards() -> None:
    assert text.exact(NO * 3, ["  Paris.", "paris", "Rome"], ["Paris"] * 3) == [1, 1, 0]
    assert text.exact(NO, ["x"], [None]) == [None]
    assert text.exact(NO * 3, ["x²", "1½", "ｘ２"], ["x2", "11/2", "x2"]) == [0, 0, 1]
    assert text.contains(NO * 2, ["A cat, a dog", "category"], [["cat", "dog"], "cat"]) == [1, 0]
    assert lengths.length_target(NO * 2, ["a b", "a b c"], [2, 2]) == [1, 0.5]
    assert lengths.repetition(NO * 2, ["a b c d", "a b c a b c"]) == [0, pytest.approx(-0.25)]


class FakeJudge:
    """Passes code that says so."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def judge(self, jobs: Sequence[Job]) -> list[Verdict]:
        self.jobs += jobs
        outcomes: dict[str, Any] = {"good": "pass", "broken": "infra_error"}
        return [Verdict(id=j.id, outcome=outcomes.get(j.code.strip(), "wrong"), passed=1, total=2) for j in jobs]


def fenced(source: str, language: str = "python") -> str:
    return f"```{language}\n{source}\n```"


def test_code() -> None:
    judge = FakeJudge()
    answers = [fenced("good"), fenced("bad") + "\n" + fenced("good"), fenced("bad"), "good", fenced("broken")]
    values = code.code(NO * 5, answers, ["assert f()"] * 5, judge=judge)
    assert values[:4] == [1, 1, 0, 0]
    assert isinstance(values[4], RowError)
    assert code.code(NO, [fenced("bad")], ["assert f()"], judge=judge, credit="fraction") == [0.5]
    assert code.code(NO, [fenced("good")], [None], judge=judge) == [None]


def test_the_last_block() -> None:
    assert code.last_block("```py\na\n```\ntext\n```\nb\n```") == "a\n"
    assert code.last_block("```bash\nls\n```\n```\nb\n```") == "b\n"
    assert code.last_block("```python\na") is None
    assert code.last_block("no code") is None


@pytest.mark.parametrize(
    ("solution", "box"),
    [
        ("\\boxed{1}", "1"),
        ("\\boxed{\\frac{1}{2}} \\boxed {3}", "3"),
        ("\\boxed{\\boxed{7}+1}", "\\boxed{7}+1"),
        ("\\boxed{\\{1,2\\}}", "\\{1,2\\}"),
        ("\\boxed{1} \\boxed{2", None),
        ("} \\boxed{1} {", "1"),
        ("none", None),
    ],
)
def test_boxes(solution: str, box: str | None) -> None:
    assert last_boxed(solution) == box


def test_score_lines() -> None:
    lines = [{"id": 1, "completion": "\\boxed{4}", "answer": "4"}, {"id": 2, "completion": "x"}]
    out = io.StringIO()
    assert score_lines("math", io.StringIO("\n".join(map(json.dumps, lines)) + "\n[]"), out) == 0
    rows = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [(r["id"], r["score"], r["status"]) for r in rows] == [
        (1, 1.0, "ok"), (2, None, "infra_error"), (None, None, "infra_error"),
    ]  # fmt: skip
    assert "answer" in rows[1]["detail"]


def test_the_list() -> None:
    assert ("math", ("answer",)) in [(name, columns) for name, columns, _ in list_rewards()]


def test_planning_imports_nothing_heavy() -> None:
    check = "import sys, posttrain.rewards.base, posttrain.rewards.mixture.mix\n"
    heavy = ("torch", "ray", "math_verify", "sympy", "reasoning_gym", "jsonschema", "sacrebleu", "py3langid")
    check += f"print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", check], text=True).strip() == "[]"


def test_code_in_the_real_sandbox() -> None:
    pool = pytest.importorskip("posttrain.sandbox.pool").LocalJudgePool()
    try:
        answers = [fenced("def f(x): return x + 1"), fenced("def f(x): return 0")]
        assert code.code(NO * 2, answers, ["assert f(1) == 2"] * 2, judge=pool, entry=["f", "f"]) == [1, 0]
    finally:
        pool.close()


def test_reasoning_gym_scores_by_its_own_verifier() -> None:
    gym = pytest.importorskip("reasoning_gym")
    from posttrain.rewards.libraries.reasoning_gym import reasoning_gym

    entry = gym.create_dataset("chain_sum", size=1, seed=1)[0]
    answers = [f"\\boxed{{{entry['answer']}}}", f"<answer>{entry['answer']}</answer>", "no"]
    values = reasoning_gym(NO * 3, answers, [entry, json.dumps(entry), entry], ["chain_sum"] * 3)
    assert values[:2] == [1, 1]
    assert (values[2] or 0) < 0.5
