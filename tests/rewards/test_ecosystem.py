"""Rewards of others, unchanged and named by path, and rewards that break in every way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posttrain.configs.schema import RewardUse
from posttrain.rewards.mixture.mix import Scorer
from posttrain.rewards.mixture.workers import CallFailed, Service, WorkerProcess
from posttrain.types import Score

Make = Callable[..., Any]
TEXTS = (
    "<think>\nhalf of eight\n</think>\nThe answer is $\\boxed{4}$",
    "<think>\nhalf of eight\n</think>\n\\boxed{5}",
    "\\boxed{4}",
    "<think>\nopen \\boxed{4}",
    "4",
)


def score(name: str, items: list[Any], folder: Path, **fields: Any) -> list[Score]:
    with Scorer([RewardUse(use=name, **fields)], recipe_dir=folder, max_error_rate=1.0) as scorer:
        return scorer.score(items)


def messages(texts: tuple[str, ...]) -> list[list[dict[str, str]]]:
    return [[{"role": "assistant", "content": text}] for text in texts]


def test_trl_think_format_reward(item: Make, tmp_path: Path) -> None:
    from trl.rewards import think_format_reward

    got = [s.value for s in score("trl.rewards:think_format_reward", [item(t) for t in TEXTS], tmp_path)]
    assert got == think_format_reward(messages(TEXTS))
    assert len(set(got)) == 2


def test_trl_accuracy_reward(item: Make, tmp_path: Path) -> None:
    from trl.rewards import accuracy_reward

    golds = ["$4$", "$4$", "$4$", "$4$", "no mathematics"]
    items = [item(t, solution=gold) for t, gold in zip(TEXTS, golds, strict=True)]
    got = score("trl.rewards:accuracy_reward", items, tmp_path)
    assert [s.value for s in got] == accuracy_reward(messages(TEXTS), solution=golds)
    assert [s.status for s in got].count("not_applicable") == 1
    assert {s.value for s in got} >= {0.0, 1.0}


def test_trl_rewards_that_are_objects_made_in_a_file(item: Make, tmp_path: Path) -> None:
    from trl.rewards import get_soft_overlong_punishment

    (tmp_path / "mine.py").write_text(
        "from trl.rewards import get_soft_overlong_punishment\npunish = get_soft_overlong_punishment(3, 2)\n"
    )
    (got,) = score("mine.py:punish", [item("x")], tmp_path)  # two tokens
    assert [got.value] == get_soft_overlong_punishment(3, 2)(completion_ids=[[7, 8]])
    assert got.value == -0.5


FUNCTIONS = '''
import re


def format_reward(completions, **kwargs):
    """In the style of open-r1: contents out of message lists, a pattern over the whole."""
    pattern = r"^<think>\\n.*?\\n</think>\\n<answer>\\n.*?\\n</answer>$"
    contents = [completion[0]["content"] for completion in completions]
    return [1.0 if re.match(pattern, c, re.DOTALL | re.MULTILINE) else 0.0 for c in contents]


def tag_count_reward(completions, **kwargs):
    tags = ("<think>\\n", "\\n</think>\\n")
    return [sum(0.25 for tag in tags if c[0]["content"].count(tag) == 1) for c in completions]


def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    found = re.search(r"#### (-?[0-9.,]+)", solution_str)
    return float(found is not None and found.group(1).replace(",", "") == ground_truth)
'''


def test_functions_in_the_style_of_open_r1_and_verl(item: Make, tmp_path: Path) -> None:
    (tmp_path / "theirs.py").write_text(FUNCTIONS)
    namespace: dict[str, Any] = {}
    exec(FUNCTIONS, namespace)
    texts = ("<think>\na\n</think>\n<answer>\n4\n</answer>", *TEXTS)
    items = [item(t) for t in texts]
    for name in ("format_reward", "tag_count_reward"):
        got = [s.value for s in score(f"theirs.py:{name}", items, tmp_path)]
        assert got == namespace[name](messages(texts))
        assert len(set(got)) > 1
    answers = ("so #### 1,234", "#### 12", "1234")
    got = [s.value for s in score("theirs.py:compute_score", [item(t, ground_truth="1234") for t in answers], tmp_path)]
    assert got == [namespace["compute_score"]("", t, "1234") for t in answers] == [1.0, 0.0, 0.0]


FAULTS = """
import os, re, time
import numpy as np


def fault(prompts, completions, **columns):
    values = []
    for text in (c[0]["content"] for c in completions):
        if text == "raise":
            raise KeyError("level")
        if text == "hang in Python":
            time.sleep(1000)
        if text == "hang in C":
            re.match("(a+)+$", "a" * 60 + "b")
        if text == "allocate":
            hoard = []
            while True:
                hoard.append(b"x" * (64 << 20))
        if text == "exit":
            os._exit(7)
        values.append({"nan": float("nan"), "text": "high", "bool": True, "numpy": np.float32(0.5)}.get(text, 1.0))
    return values
"""


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("raise", "KeyError: 'level'"),
        ("hang in Python", "no answer within"),
        ("hang in C", "no answer within"),
        ("exit", "exit code 7"),
        ("nan", "no finite number"),
        ("text", "could not convert"),
    ],
)
def test_one_row_in_ten_costs_itself_with_its_reason(item: Make, tmp_path: Path, fault: str, says: str) -> None:
    (tmp_path / "mine.py").write_text(FAULTS)
    texts = ["fine"] * 7 + [fault] + ["fine"] * 2
    got = score("mine.py:fault", [item(t) for t in texts], tmp_path, timeout=2)
    assert [s.status for s in got] == ["infra_error" if t == fault else "ok" for t in texts]
    assert says in got[7].detail


@pytest.mark.parametrize(("kind", "value"), [("bool", 1.0), ("numpy", 0.5)])
def test_numbers_of_other_types_count(item: Make, tmp_path: Path, kind: str, value: float) -> None:
    (tmp_path / "mine.py").write_text(FAULTS)
    (got,) = score("mine.py:fault", [item(kind)], tmp_path)
    assert got.value == value
    assert type(got.value) is float


def test_a_worker_that_allocates_without_end_is_killed_before_the_machine_suffers(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FAULTS)
    service = Service(
        module="posttrain.rewards.mixture.worker", attribute="UserReward", arguments=("mine.py:fault", str(tmp_path))
    )
    process = WorkerProcess(service, memory_bytes=512 << 20)
    call = {"prompts": [[]], "completions": messages(("allocate",)), "columns": {}, "params": {}, "step": 0}
    try:
        with pytest.raises(CallFailed, match="over 512 MiB"):
            process.call({**call, "completion_ids": []}, 60.0)
        fine = {**call, "completions": messages(("fine",)), "completion_ids": []}
        assert process.call(fine, 60.0)[0] == [1.0]
    finally:
        process.close()
