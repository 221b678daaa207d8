"""Gates: what a stage's model must show before the pipeline goes on."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from posttrain.configs.nodes.strict import Strict


class Gate(Strict):
    """A check on one number of the evaluation that comes after a stage; never part of the stage's key."""

    suite: str = Field(description="A suite that runs after the stage.")
    mode: str | None = Field(None, description="One of the suite's modes; needed only if it has several.")
    metric: str | None = Field(
        None, description="Metric of the suite; default: `accuracy`, or `turns` for mode following."
    )
    at_least: float | None = Field(None, description="Smallest value that passes.")
    no_drop: float | None = Field(
        None, ge=0, description="Largest drop that passes, compared with the model that the stage started from."
    )
    action: Literal["stop", "warn"] = Field(
        "stop",
        description=("What happens if the gate is not passed: `stop` ends the pipeline, `warn` prints a warning."),
    )

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if self.at_least is None and self.no_drop is None:
            raise ValueError("a gate needs `at_least`, `no_drop`, or both")
        return self
