"""No completion, however hostile, makes a rule that runs in the caller slow, or makes it fail."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.rewards.base import BUILTINS
from posttrain.rewards.contract import BuiltinReward, RowError
from posttrain.rewards.instructions import CHECKERS, instructions
from posttrain.rewards.instructions.generate import WRITERS

SIZE = 100_000
LIMIT_S = 1.0
"""Of processor time. The slowest, which tells languages, takes a quarter of it; what backtracks takes many seconds."""

PIECES = ["a", "a b ", "[[", "]]", "[a", "\n", " ", "\t\n", ".", "*", "*a", "* ", "<", "<<a", "(", "{", '{"a":', '"', 
          "`", "`a", "$a", "$", "\\[", "\\boxed{", "<tool_call>", "<tool_call>\n{}\n</tool_call>", "answer is ",
          "answer:", "The answer is A ", "```json\n", "```\n", "[1,", "[1]", "9",
          "火", "火。", "not ", "actually, ", "in fact ", "the premise ", "P.S.", "P.S.\n", "***\n",
          "- a\n", "- ", "1. ", "Mr. ", "SECTION 1\n", "\u0301", "http://",
          "was not ", "<think>", "</think>", "\0", "A ", "A.", "\ud7a3", "\u200b", "My answer is yes."]  # fmt: skip
ELSEWHERE = ("reasoning_gym", "environment")
"""Judged elsewhere: by a library's own verifiers, and by an environment, whatever the text."""
RULES = [name for name, r in BUILTINS.items() if r.kind == "rule" and r.needs in ("nothing", "worker") and not r.params]


def run(reward: BuiltinReward, text: str) -> Any:
    case = reward.gold
    columns = {name: [case.columns.get(name)] for name in reward.columns + reward.optional}
    return reward.function([case.messages], [text], **columns, **case.params)[0]


def seconds(reward: BuiltinReward, text: str) -> float:
    """Processor time; the better of two, since a library may be loading."""
    taken = []
    for _ in range(2):
        started = time.process_time()
        run(reward, text)
        taken.append(time.process_time() - started)
        if taken[-1] < LIMIT_S:
            break
    return min(taken)


@pytest.mark.parametrize("name", [n for n in RULES if n != "reasoning_gym"])
def test_a_reward_is_linear_in_hostile_text(name: str) -> None:
    slow = {piece: taken for piece in PIECES if (taken := seconds(BUILTINS[name], hostile(piece))) > LIMIT_S}
    assert slow == {}


def hostile(piece: str) -> str:
    return (piece * (SIZE // len(piece) + 1))[: SIZE - 1] + "~"


@pytest.mark.parametrize("instruction", sorted(CHECKERS))
def test_an_instruction_is_linear_in_hostile_text(instruction: str) -> None:
    arguments = WRITERS[instruction](random.Random(0))[1]
    if instruction == "combination:repeat_prompt":
        arguments = {"prompt_to_repeat": "a b " * 20}
    slow = {}
    for piece in PIECES:
        text = hostile(piece)
        started = time.process_time()
        instructions([None], [text], [[instruction]], [[arguments]])
        taken = time.process_time() - started
        if taken > LIMIT_S:
            slow[piece] = taken
    assert slow == {}


@pytest.mark.parametrize("name", [n for n in RULES if n != "reasoning_gym"])
@given(text=st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=12).map("".join))
def test_a_reward_gives_every_completion_a_number_or_nothing(name: str, text: str) -> None:
    value = run(BUILTINS[name], text)
    assert value is None or (isinstance(value, float) and -1.0 <= value <= 1.0)


@pytest.mark.parametrize("name", [n for n in RULES if BUILTINS[n].sees == "answer" and n not in ELSEWHERE])
def test_no_answer_is_never_paid_in_full(name: str) -> None:
    value = run(BUILTINS[name], "")
    assert value is None or value < BUILTINS[name].full


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.sampled_from(["[", "{}", "[3]"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=6,
)
READERS = [
    n for n in RULES if BUILTINS[n].columns + BUILTINS[n].optional and n not in ("reasoning_gym", "mode_following")
]


@pytest.mark.parametrize("name", READERS)
@given(data=st.data())
def test_whatever_stands_in_the_columns_never_fails_the_batch(name: str, data: st.DataObject) -> None:
    reward = BUILTINS[name]
    columns = {name: [data.draw(JSON, label=name)] for name in reward.columns + reward.optional}
    for answer in ("", reward.gold.completion):
        (value,) = reward.function([reward.gold.messages], [answer], **columns, **reward.gold.params)
        assert value is None or isinstance(value, float | RowError)
