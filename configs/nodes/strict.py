"""The base of all nodes of a recipe."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

Path_ = tuple[str | int, ...]
"""The place of a node: ("stages", "cold_start", "data", 0, "from")."""


class Strict(BaseModel):
    """Unknown keys are errors, instances are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def differing(node: BaseModel) -> set[str]:
    """Fields whose value isn't the default. A resolved recipe writes every default out: only these were meant."""
    return {
        name
        for name, field in type(node).model_fields.items()
        if getattr(node, name) != field.get_default(call_default_factory=True, validated_data={})
    }
