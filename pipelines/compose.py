"""Recipes that commands build: one evaluation, and strong-to-weak distillation (report, 4.5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.configs.load import LoadedRecipe, recipe_from_data


def evaluation(
    model: str, prompts: str, *, rewards: Sequence[str], modes: Sequence[str], k: int, n: int | None, max_tokens: int
) -> LoadedRecipe:
    """A recipe of one `evaluate` stage. Raises RecipeError."""
    suite = {
        "name": "suite",
        "prompts": _without_none({"from": _absolute(prompts), "n": n}),
        "rewards": list(rewards),
        "modes": list(modes),
        "k": k,
        "sampling": {"max_tokens": max_tokens, "temperature": 0.6, "top_p": 0.95, "top_k": 20},
    }
    stage = {"kind": "evaluate", "model": _absolute(model), "suites": [suite]}
    return recipe_from_data({"name": "eval", "stages": {"evaluation": stage}}, Path.cwd(), "<eval>")


def distillation(
    teacher: str, student: str, prompts: str, *, steps: int, off_policy_steps: int, max_tokens: int, verify: bool
) -> LoadedRecipe:
    """Both phases: the student learns the teacher's responses in both modes, then its distribution on its own.

    With `verify`, only responses that the math reward calls right are learned from. Raises RecipeError.
    """
    source = {"from": _absolute(prompts), "mode": "mixed"}
    sampling = {"max_tokens": max_tokens}
    stages = {
        "teacher_responses": {
            "kind": "sample",
            "model": _absolute(teacher),
            "prompts": source,
            "filters": ["correct"] if verify else [],
            "rewards": ["math"] if verify else [],
            "sampling": sampling,
            "limit": None,
        },
        "off_policy": {
            "kind": "sft",
            "model": _absolute(student),
            "data": {"from": "teacher_responses", "flag": "mixed"},
            "steps": off_policy_steps,
            "max_length": max_tokens * 4,
        },
        "on_policy": {
            "kind": "distill",
            "model": "off_policy",
            "teacher": _absolute(teacher),
            "prompts": source,
            "steps": steps,
            "sampling": sampling,
        },
    }
    return recipe_from_data({"name": "distill", "stages": stages}, Path.cwd(), "<distill>")


def _absolute(source: str) -> str:
    """Paths on the command line start where the command runs."""
    path = Path(source).expanduser()
    return str(path.resolve()) if path.exists() else source


def _without_none(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if value is not None}
