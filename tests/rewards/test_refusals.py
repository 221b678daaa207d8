"""Refusals: known by their turns, and paid only where they are wanted."""

from __future__ import annotations

from typing import Any

import pytest

from posttrain.rewards.contract import RowError
from posttrain.rewards.rules.refusals import refusal

REFUSALS = [
    "I'm sorry, but I can't help with that.",
    "I cannot assist with this request.",
    "I can’t provide instructions for that.",
    "I'm unable to help you with that.",
    "As an AI language model, I cannot have opinions.",
    "I must decline to do so. I won't help.",
    "I have to refuse.",
]
ANSWERS = [
    "Sorry to hear that! Rest and drink enough.",
    "You can't help a cold much: rest and drink.",
    "I can help with that. First, boil the water.",
    "As an AI, I find this one easy: 42.",
    "Plants cannot move. " * 30 + "I cannot help with that.",
]


@pytest.mark.parametrize("text", REFUSALS)
def test_a_refusal_pays_where_it_is_wanted_alone(text: str) -> None:
    assert refusal([None] * 2, [text] * 2, [True, False]) == [1.0, 0.0]


@pytest.mark.parametrize("text", ANSWERS)
def test_an_answer_pays_where_it_is_wanted_alone(text: str) -> None:
    assert refusal([None] * 2, [text] * 2, [True, False]) == [0.0, 1.0]


def test_silence_is_neither() -> None:
    assert refusal([None] * 2, ["", " …"], [True, False]) == [0.0, 0.0]


@pytest.mark.parametrize("wanted", ["yes", 1, []])
def test_a_wish_that_is_none_is_no_zero(wanted: Any) -> None:
    assert isinstance(refusal([None], ["a"], [wanted])[0], RowError)
