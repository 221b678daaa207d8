"""The stages that make data: `curate` and `sample`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from posttrain.configs.inputs import Model, PromptSource, RewardUse, Sampling, as_mapping
from posttrain.configs.judges import JudgeModel
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


class FilterUse(Strict):
    """A response filter by name; every other key is one of its parameters.

    >>> FilterUse.model_validate({"use": "repetition", "ngram": 4, "at_most": 0.3})
    """

    model_config = ConfigDict(extra="allow")

    use: str = Field(description="correct, repetition, guesswork, consistent, language, similar or complete")

    @property
    def params(self) -> dict[str, Any]:
        """What the recipe sets."""
        return dict(self.model_extra or {})


class Sample(StageBase):
    """A model's responses to prompts, verified, filtered and chosen (report, 4.1 and 4.3).

    Few samples are the default, as the report prefers: one response a query, and at most 5000 of them.
    """

    kind: Literal["sample"]
    model: Model | None = Field(None, description="what answers: a stage, base, builtin:oracle, a folder, a Hub id")
    endpoint: JudgeModel | None = Field(None, description="in place of `model`: an OpenAI-compatible endpoint")
    prompts: tuple[PromptSource, ...]
    n: int = Field(1, ge=1, description="candidates a prompt")
    take: int = Field(1, ge=1, description="most candidates kept a prompt")
    pick: Literal["shortest", "first", "best"] = Field("shortest", description="which of those that pass the filters")
    mode: Mode | Literal["mixed"] | None = None
    filters: tuple[FilterUse, ...] = Field((FilterUse(use="correct"),), description="names, or {use: NAME, parameters}")
    held_out: tuple[PromptSource, ...] = Field((), description="what the filter `similar` compares with")
    rewards: tuple[RewardUse, ...] = (RewardUse(use="math"),)
    sampling: Sampling = Sampling()
    limit: int | None = Field(5000, ge=1, description="most responses kept; null: all")
    reviewed: tuple[PromptSource, ...] = Field((), description="a review.jsonl of this stage that a person filled in")

    @field_validator("filters", mode="before")
    @classmethod
    def _filters(cls, value: Any) -> Any:
        values = value if isinstance(value, list | tuple) else [value]
        return [as_mapping(v, "use") for v in values]

    @model_validator(mode="after")
    def _fits(self) -> Sample:
        if (self.model is None) == (self.endpoint is None):
            raise ValueError("who answers? name `model` or `endpoint: {endpoint: URL, model: NAME}`, one of the two")
        if self.endpoint is not None and self.endpoint.endpoint is None:
            raise ValueError("`endpoint` is {endpoint: URL, model: NAME}; what the run holds is named in `model`")
        if any(use.use == "similar" for use in self.filters) and not self.held_out:
            raise ValueError("the filter `similar` compares with `held_out`: name the sets kept for evaluation")
        return self
