"""The base of all nodes of a recipe."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """Unknown keys are errors, instances are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)
