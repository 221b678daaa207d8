"""The node of a recipe that names an environment: what answers the tool calls of a policy."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, model_validator

from posttrain.configs.nodes.access import CONFINE, NEEDS, Access, check_access
from posttrain.configs.nodes.strict import Strict


class EnvironmentUse(Strict):
    """An environment for prompts: the model calls its tools until it gives a final answer."""

    use: str = Field(
        description="`calculator`, `python`, `search`, `package.module:Class`, or `path/to/file.py:Class`."
    )
    params: dict[str, Any] = Field(default_factory=dict, description="Arguments of the class.")
    max_turns: int = Field(4, ge=1, description="Most assistant turns per episode, the final answer included.")
    max_characters: int = Field(
        2000, ge=64, description="Most characters of a tool's result; the middle of a longer one is left out."
    )
    timeout: float = Field(30.0, gt=0, description="Seconds for the tool calls of one turn.")
    processes: int = Field(8, ge=1, description="Most processes that episodes are spread over.")
    confine: bool | None = Field(None, description=CONFINE)
    needs: Access | None = Field(None, description=NEEDS)

    @model_validator(mode="after")
    def _access(self) -> Self:
        check_access(self.confine, self.needs)
        return self
