"""Multiple choice: what settles on a letter, and what only looks like it."""

from __future__ import annotations

from typing import Any

import pytest

from posttrain.rewards.contract import RowError
from posttrain.rewards.rules.choices import multiple_choice

CITIES = ["Rome", "Oslo", "Paris", "42"]


def score(text: str, gold: Any, choices: Any = None) -> float | RowError | None:
    return multiple_choice([None], [text], [gold], [choices])[0]


@pytest.mark.parametrize(
    "text",
    [
        "C",
        "(c)",
        "C.",
        "C. Paris",
        "The answer is (C).",
        "**Answer:** C",
        "The correct answer is **C**, since A is wrong.",
        "The answer is C because it rains",
        "the answer is c",
        "Option C is correct.",
        "The best choice is option C.",
        "The answer is C (not B)",
        "\\boxed{C}",
        "\\boxed{\\text{(C)}}",
        "\\boxed{C. Paris}",
        "The answer is \\boxed{C}",
        "The answer is $C$",
        '{"reason": "A is old", "answer": "C"}',
        '```json\n{"answer": "(C)"}\n```',
        'So: {"answer": "C"}.',
        "答案是C。",
        "First \\boxed{A}. No: \\boxed{C}",
        "The answer is B. No wait, the answer is C.",
        "\\boxed{A} was hasty. The answer is C.",
        "\\boxed{A} was hasty. The answer is C, since A is no boxer.",
    ],
)
@pytest.mark.parametrize("choices", [None, CITIES])
def test_the_last_statement_settles_it(text: str, choices: Any) -> None:
    assert score(text, "C", choices) == 1.0
    assert score(text, "B", choices) == 0.0


@pytest.mark.parametrize(
    "text",
    [
        "A, B, C or D",
        "A. B. C. D.",
        "The answer is A, B, C or D",
        "The answer is A/B",
        "the answer is (a) or (b)",
        "the answer is A or maybe B",
        "\\boxed{A, B}",
        "\\boxed{A}\\boxed{B}\\boxed{C}\\boxed{D}",
        "The answer is D. The answer is C. The answer is B. The answer is A.",
        '{"answer": ["A", "B"]}',
        "",
    ],
)
@pytest.mark.parametrize("gold", "ABCD")
def test_naming_several_letters_settles_on_none(text: str, gold: str) -> None:
    assert score(text, gold) == 0.0


@pytest.mark.parametrize(
    "text", ["the answer is a matter of taste", "The answer is A matter of taste", "A matter of taste", "It isn't a"]
)
def test_an_article_is_no_choice(text: str) -> None:
    assert score(text, "A") == 0.0


@pytest.mark.parametrize("text", ["the answer is not C", "Option C is incorrect", "The answer isn't C"])
def test_what_is_denied_is_not_chosen(text: str) -> None:
    assert score(text, "C") == 0.0


@pytest.mark.parametrize(
    ("text", "gold"), [("The answer is Paris.", "C"), ("\\boxed{paris}", "C"), ("Answer: 42", "D")]
)
def test_the_text_of_an_option_stands_for_its_letter(text: str, gold: str) -> None:
    assert score(text, gold, CITIES) == 1.0
    assert score(text, gold, dict(zip("ABCD", CITIES, strict=True))) == 1.0
    assert score(text, gold) == 0.0


def test_a_letter_beside_another_options_text_settles_on_none() -> None:
    assert score("C) Rome", "C", CITIES) == 0.0


@pytest.mark.parametrize(("gold", "choices"), [("Paris", None), ("", None), ("E", CITIES), ("A", 3)])
def test_a_row_whose_gold_is_no_letter_is_no_zero(gold: Any, choices: Any) -> None:
    assert isinstance(score("A", gold, choices), RowError)
