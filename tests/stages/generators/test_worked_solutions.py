"""Worked solutions of reasoning_gym tasks, and the split of its questions by content."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from posttrain.configs.schema import PromptSource
from posttrain.stages.data.load import load_rows
from posttrain.stages.generators.worked_solutions import WORKED, worked_solution
from posttrain.stages.models.locations import Locations

pytest.importorskip("reasoning_gym")

EASY = {"basic_arithmetic": {"operators": ["+", "-", "*"]}}  # the task's own divisions don't match its questions


def rows(task: str, split: str = "train", n: int = 100, seed: int = 0, **params: Any) -> list[dict[str, Any]]:
    source = PromptSource.model_validate({"from": f"reasoning_gym:{task}", "n": n, "split": split, "params": params})
    return load_rows(source, locations=Locations(recipe_dir=Path()), seed=seed)


@pytest.mark.parametrize("task", WORKED)
def test_every_row_of_a_worked_task_has_steps(task: str) -> None:
    assert all(row.get("solution") for row in rows(task, **EASY.get(task, {})))


@pytest.mark.parametrize("task", ["chain_sum", "basic_arithmetic"])
def test_each_step_of_arithmetic_is_true(task: str) -> None:
    for row in rows(task, **EASY.get(task, {})):
        for line in row["solution"].splitlines():
            left, right = line.split(" = ")
            assert re.fullmatch(r"-?\d+ [-+*] -?\d+", left)
            assert eval(left) == int(right)
        assert row["solution"].endswith(f" = {row['answer']}")


def test_steps_that_lead_elsewhere_are_no_solution() -> None:
    entry = {"metadata": {"expression": "4 - 1"}, "answer": "5"}
    assert worked_solution("chain_sum", entry) is None
    assert worked_solution("chain_sum", {**entry, "answer": "3"}) == "4 - 1 = 3"


def test_a_task_without_steps_gets_none() -> None:
    assert "solution" not in rows("spell_backward", n=3)[0]


@pytest.mark.parametrize("params", [{}, {"min_terms": 2, "max_terms": 2, "max_digits": 1}])
def test_no_question_is_in_both_splits_whatever_the_seed(params: dict[str, Any]) -> None:
    train = {row["key"] for seed in range(3) for row in rows("chain_sum", seed=seed, **params)}
    held = {row["key"] for seed in range(3) for row in rows("chain_sum", "heldout", seed=seed, **params)}
    assert held
    assert not train & held


def test_a_small_space_of_questions_gives_what_it_has() -> None:
    keys = [row["key"] for row in rows("chain_sum", "heldout", n=100, min_terms=2, max_terms=2, max_digits=1)]
    assert 0 < len(keys) == len(set(keys)) < 100
