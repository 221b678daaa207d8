"""When a held-out question counts as met in training."""

from __future__ import annotations

from typing import Any

import pytest

from posttrain.stages.curation.overlap import overlap, seen_in_documents, seen_in_rows
from posttrain.stages.data.content import content, questions
from posttrain.types import Prompt


def prompt(text: str = "?", answer: str | None = None, **columns: Any) -> Prompt:
    messages = [{"role": "user", "content": text}]
    messages += [{"role": "assistant", "content": answer}] if answer else []
    return Prompt(id="1", messages=tuple(messages), columns=columns)


def met(document: str, key: str) -> bool:
    (found,) = overlap({"s": [prompt(key=key)]}, seen_in_rows([]), seen_in_documents([document]))
    return found.in_corpus == 1


def test_case_and_white_space_make_no_other_question() -> None:
    assert content(prompt("What  IS\nit?")) == content(prompt("what is it?"))


def test_the_answer_makes_no_other_question() -> None:
    assert content(prompt("Why?", answer="So.")) == content(prompt("Why?"))


def test_a_dialogue_asks_the_questions_of_its_turns() -> None:
    dialogue = prompt(key="1+2+3|Sort 2 1.", queries=["What is 1+2+3?", "Sort 2 1."])
    assert questions(dialogue) == questions(prompt(key="1+2+3")) | questions(prompt(key="Sort 2 1."))


@pytest.mark.parametrize("document", ["23+7-12: 30", "1+1=2, 23+7-12 = 18", "What is 23+7-12?", "8; 23+7-12."])
def test_an_expression_stands_whole_in_a_document(document: str) -> None:
    assert met(document, "23+7-12")


@pytest.mark.parametrize("document", ["23+7-12+1: 19", "5+23+7-12", "123+7-12", "23+7-121", "23+7 and -12"])
def test_a_part_of_a_longer_expression_is_another_question(document: str) -> None:
    assert not met(document, "23+7-12")


def test_facts_of_two_numbers_are_no_questions() -> None:
    assert not met("23+7=30", "23+7")


def test_an_instruction_stands_as_a_sentence() -> None:
    assert met("<|im_start|>user\nSort 3 1 2.<|im_end|>", "Sort 3 1 2.")
    assert met("Repeat cat 2 times. cat cat\nSort 3 1 2. 1 2 3", "Sort 3 1 2.")
    assert not met("Sort 3 1 2 5. 1 2 3 5", "Sort 3 1 2.")


def test_questions_are_counted_not_rows() -> None:
    data = seen_in_rows([prompt(key="a")] * 3 + [prompt(key="b")])
    (found,) = overlap({"s": [prompt(key="a"), prompt(key="c")]}, data)
    assert (found.questions, found.in_data, found.rows, found.examples) == (2, 1, 4, ("a",))
    assert str(found) == "s: 2 questions, 1 in the run's data (4 rows compared)"
