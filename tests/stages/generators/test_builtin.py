"""The built-in generators: right answers, and a held-out split that nothing else touches."""

from __future__ import annotations

import random
import re
from itertools import islice
from typing import Any

import pytest

from posttrain.rewards.mathematics.math import math
from posttrain.rewards.rules.text import exact
from posttrain.stages.data.load import GENERATORS
from posttrain.stages.generators.builtin import held_out
from posttrain.stages.sample import oracle_group
from posttrain.thinking import split_thinking
from posttrain.types import Prompt

Row = dict[str, Any]


def rows(name: str, split: str, n: int = 400, seed: int = 1, **params: Any) -> list[Row]:
    return list(islice(GENERATORS[name](random.Random(seed), split, **params), n))


def value(expression: str) -> int:
    return sum(int(term) for term in re.findall(r"[+-]?\d+", expression))


@pytest.mark.parametrize("name", ["arithmetic", "instructions", "chat"])
def test_splits_share_no_content(name: str) -> None:
    train, held = ({row["key"] for row in rows(name, split)} for split in ("train", "heldout"))
    assert not train & held


@pytest.mark.parametrize("name", ["arithmetic", "instructions", "chat"])
def test_a_seed_makes_the_same_rows(name: str) -> None:
    assert rows(name, "train", 20) == rows(name, "train", 20)
    assert rows(name, "train", 20) != rows(name, "train", 20, seed=2)


def test_answers_are_the_sums() -> None:
    for row in rows("arithmetic", "train", terms=(2, 6)):
        assert int(row["answer"]) == value(row["key"])


def test_every_step_of_a_solution_is_right_and_leads_to_the_next() -> None:
    for row in rows("arithmetic", "train", terms=(3, 6)):
        total = None
        for step in row["solution"].split("\n"):
            left, _, right = step.partition("=")
            assert value(left) == int(right)
            assert total is None or left.startswith(total)
            total = right
        assert total == row["answer"]


def test_terms_are_as_many_as_asked_for() -> None:
    counts = {len(re.findall(r"\d+", row["key"])) for row in rows("arithmetic", "train", terms=(3, 5))}
    assert counts == {3, 4, 5}


def counted(first: int, last: int) -> range:
    return range(first, last + 1) if first < last else range(first, last - 1, -1)


def test_the_steps_of_an_instruction_lead_to_its_answer() -> None:
    """Read from the steps alone."""
    for row in rows("instructions", "train"):
        steps = row["solution"].split("\n")
        if row["domain"] == "repeat":
            found = [step.partition(": ")[2] for step in steps]
        elif row["domain"] == "count":
            found = [*re.findall(r"^\d+", steps[0]), *(step.partition("=")[2] for step in steps)]
        else:  # sort, reverse
            found = [step.split()[-1] for step in steps]
        assert " ".join(found) == row["answer"]


def test_the_oracle_answers_instructions_as_their_reward_reads_them() -> None:
    for number, row in enumerate([*rows("instructions", "train", 40), *rows("arithmetic", "train", 40)]):
        prompt = Prompt(id=str(number), messages=({"role": "user", "content": row["prompt"]},), task=row["task"],
                        columns=row)  # fmt: skip
        (said,) = oracle_group(prompt).completions
        answer = split_thinking(said.text).answer
        assert (exact if row["task"] == "instruction" else math)([""], [answer], [row["answer"]]) == [1.0], said.text


def test_instructions_have_the_answers_they_ask_for() -> None:
    for row in rows("instructions", "train"):
        words = row["prompt"].rstrip(".").split()[1:]
        expected = {
            "repeat": lambda w: " ".join(w[:-2] * int(w[-2])),
            "sort": lambda w: " ".join(map(str, sorted(map(int, w)))),
            "reverse": lambda w: " ".join(reversed(w)),
            "count": lambda w: " ".join(map(str, counted(int(w[1]), int(w[3])))),
        }[row["domain"]](words)
        assert row["answer"] == expected


def test_the_corpus_holds_no_held_out_sum_of_three_terms_or_more() -> None:
    found = 0
    for row in rows("corpus", "train", 3000):
        for expression in re.findall(r"(?<![\d+-])\d+(?:[+-]\d+){2,}(?![\d+-])", row["text"]):
            # A worked sum's later lines are rests of it, not questions of their own: only the first counts.
            if row["text"].lstrip().startswith(expression) or f" {expression}?" in row["text"]:
                found += 1
                assert not held_out(expression)
    assert found > 100


def test_the_corpus_holds_no_held_out_instruction() -> None:
    for row in rows("corpus", "train", 3000):
        for instruction in re.findall(r"(?:Repeat|Count|Sort|Reverse) [^.]*\.", row["text"]):
            assert not held_out(instruction)


def test_dialogue_modes_follow_the_last_flag() -> None:
    for row in rows("dialogues", "train"):
        mode = "think"
        for flag, wanted in zip(row["flags"], row["modes"], strict=True):
            mode = flag[1:] or mode
            assert wanted == mode
