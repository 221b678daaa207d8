"""Gates: what a stage's model must show before the pipeline goes on."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from posttrain.configs.nodes.strict import Strict


class Gate(Strict):
    """A check on one number of the evaluation that comes after a stage; never part of the stage's key."""

    suite: str = Field(description="a suite that is run after the stage")
    mode: str | None = Field(None, description="of the suite's modes; may be left out where there is one")
    metric: str | None = Field(None, description="accuracy if not given; of mode_following, turns")
    at_least: float | None = Field(None, description="the number must be this or more")
    no_drop: float | None = Field(
        None, ge=0, description="the number may be at most this much below that of the model the stage started from"
    )
    action: Literal["stop", "warn"] = Field("stop", description="if it isn't met: stop the pipeline, or say so")

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if self.at_least is None and self.no_drop is None:
            raise ValueError("a gate needs `at_least`, `no_drop`, or both")
        return self
