"""What all kinds of stage share."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from posttrain.configs.nodes.declaration import Declaration
from posttrain.configs.nodes.gates import Gate
from posttrain.configs.nodes.inputs import Model, as_mapping
from posttrain.configs.nodes.strict import Strict


class StageBase(Strict):
    """What all stages share."""

    kind: str = Field(description="The kind of stage, or `FILE.py:CLASS` for one of your own.")
    seed: int | None = Field(None, description="Random seed; default: the recipe's.")
    model: Model | None = Field(
        None,
        description=(
            "The model that the stage uses: a stage, `base`, `builtin:NAME`, a folder, a Hub id, or a mapping."
        ),
    )
    gate: tuple[Gate, ...] = Field((), description="Conditions on the stage's evaluation, one or a list.")

    def declare(self) -> Declaration:
        """What plans, checks and reports may know of the stage."""
        raise NotImplementedError(f"{type(self).__name__} has no `declare`")

    @field_validator("gate", mode="before")
    @classmethod
    def _gate(cls, value: Any) -> Any:
        return [value] if isinstance(value, dict) else value

    @field_validator("model", mode="before", check_fields=False)
    @classmethod
    def _model(cls, value: Any) -> Any:
        return as_mapping(value, "from")

    @field_validator("prompts", "data", "exclude", "held_out", "reviewed", mode="before", check_fields=False)
    @classmethod
    def _sources(cls, value: Any) -> Any:
        values = value if isinstance(value, list | tuple) else [value]
        return [as_mapping(v, "from") for v in values]

    @field_validator("rewards", mode="before", check_fields=False)
    @classmethod
    def _rewards(cls, value: Any) -> Any:
        values = value if isinstance(value, list | tuple) else [value]
        return [as_mapping(v, "use") for v in values]
