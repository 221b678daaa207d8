"""The learner's names for the models that it holds beside the policy."""

from __future__ import annotations

REFERENCE = "reference"
"""The frozen model that a KL holds the policy to."""


def teacher_name(number: int = 0) -> str:
    """The name of a stage's teacher, by its number."""
    return f"teacher{number}"
