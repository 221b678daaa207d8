"""The recipe of `posttrain distill`: strong-to-weak distillation (report, 4.5)."""

from __future__ import annotations

from pathlib import Path

from posttrain.configs.load import LoadedRecipe, recipe_from_data

STUDENT = "on_policy"
"""The stage that leaves the finished student."""


def distillation(
    teacher: str,
    student: str,
    prompts: str,
    *,
    steps: int,
    off_policy_steps: int,
    max_tokens: int,
    verify: bool,
    mode: str = "mixed",
) -> LoadedRecipe:
    """Both phases: the student learns the teacher's responses, then its distribution on its own, each in `mode`.

    With `verify`, only responses that the math reward calls right are learned from. Raises RecipeError.
    """
    source = {"from": absolute(prompts), "mode": mode}
    flags = {"flag": "mixed"} if mode in ("mixed", "think", "no_think") else {}
    sampling = {"max_tokens": max_tokens}
    stages = {
        "teacher_responses": {
            "kind": "sample",
            "model": absolute(teacher),
            "prompts": source,
            "filters": ["correct"] if verify else [],
            "rewards": ["math"] if verify else [],
            "sampling": sampling,
            "limit": None,
        },
        "off_policy": {
            "kind": "sft",
            "model": absolute(student),
            "data": {"from": "teacher_responses", **flags},
            "steps": off_policy_steps,
            "max_length": max_tokens * 4,
        },
        STUDENT: {
            "kind": "distill",
            "model": "off_policy",
            "teacher": absolute(teacher),
            "prompts": source,
            "steps": steps,
            "sampling": sampling,
        },
    }
    return recipe_from_data({"name": "distill", "stages": stages}, Path.cwd(), "<distill>")


def absolute(source: str) -> str:
    """Paths on the command line start where the command runs."""
    path = Path(source).expanduser()
    return str(path.resolve()) if path.exists() else source
