"""The stages that make data: `curate` and `sample`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from posttrain.configs.inputs import Model, PromptSource, RewardUse, Sampling
from posttrain.configs.stage import StageBase
from posttrain.configs.strict import Strict
from posttrain.types import Mode


class Keep(Strict):
    """What `curate` keeps."""

    pass_rate: tuple[float, float] = Field((0.0, 1.0), description="inclusive window of the model's pass rate")

    @field_validator("pass_rate")
    @classmethod
    def _window(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= value[0] <= value[1] <= 1:
            raise ValueError("a pass-rate window is [low, high] with 0 <= low <= high <= 1")
        return value


class Curate(StageBase):
    """Prompts in; prompts with pass rates, filtered, out (report, 4.1 and 4.2)."""

    kind: Literal["curate"]
    prompts: tuple[PromptSource, ...]
    n: int = Field(4, ge=1, description="completions a prompt for the pass rate")
    keep: Keep = Keep()
    limit: int | None = Field(None, ge=1, description="keep at most this many")
    exclude: tuple[PromptSource, ...] = Field((), description="prompts that must not come back, e.g. the cold start's")
    rewards: tuple[RewardUse, ...] = (RewardUse(use="math"),)
    sampling: Sampling = Sampling()


class Store(Strict):
    """What of the model's distribution is kept at every token of its responses; one of the two."""

    top_k: int = Field(0, ge=0, description="the likeliest ids with their log-probabilities, 7 bytes each")
    draws: int = Field(0, ge=0, le=63, description="ids drawn from it, 3 bytes for each distinct one (2503.16870: 50)")

    @model_validator(mode="after")
    def _one(self) -> Store:
        if bool(self.top_k) == bool(self.draws):
            raise ValueError("store: top_k: N or draws: N, one of them")
        return self


class Sample(StageBase):
    """A model's responses to prompts, verified and filtered (report, 4.1 and 4.3)."""

    kind: Literal["sample"]
    model: Model
    prompts: tuple[PromptSource, ...]
    n: int = Field(1, ge=1, description="candidates a prompt")
    take: int = Field(1, ge=1, description="most candidates kept a prompt")
    mode: Mode | Literal["mixed"] | None = None
    filters: tuple[str, ...] = Field(("correct",), description="names of the filter registry")
    rewards: tuple[RewardUse, ...] = (RewardUse(use="math"),)
    sampling: Sampling = Sampling()
    store: Store | None = Field(None, description="keep the model's next-token distributions, for `distill`")
    limit: int | None = Field(None, ge=1)
