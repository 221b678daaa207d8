"""What stages of every kind name: models, prompts, data, rewards, tasks, and how to sample."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from posttrain.configs.nodes.access import CONFINE, NEEDS, Access, check_access
from posttrain.configs.nodes.agents import EnvironmentUse
from posttrain.configs.nodes.judges import JudgeModel
from posttrain.configs.nodes.strict import Strict
from posttrain.types import Mode


class Sampling(Strict):
    """How to sample. RL needs temperature 1 and no cut: what is scored must be what was sampled."""

    max_tokens: int = Field(64, ge=1, description="most tokens a completion may have, thinking included")
    temperature: float = Field(1.0, ge=0, description="0 is greedy")
    top_p: float = Field(
        1.0, gt=0, le=1, description="the smallest share of probability that is sampled from; 1 cuts nothing"
    )
    top_k: int = Field(0, ge=0, description="0 cuts nothing")
    thinking_budget: int | None = Field(None, ge=0, description="most tokens inside the think block")


class ModelSource(Strict):
    """A model to start from, where a plain name doesn't say enough."""

    source: str = Field(alias="from", description="a stage, `base`, builtin:tiny, a folder or a Hub id")
    revision: str | None = Field(None, description="Hub revision")
    layers: tuple[int, ...] | None = Field(None, description="keep only these decoder layers (a pruned student)")
    scratch: dict[str, Any] | None = Field(
        None,
        description="ignore the weights: a random model of this Qwen3 config, with the source's tokenizer",
    )


class PromptSource(Strict):
    """Where prompts (or rows) come from, and how their columns map to ours."""

    source: str = Field(
        alias="from",
        description="a stage, builtin:NAME, reasoning_gym:TASK, a .jsonl or .parquet file, or hf:OWNER/NAME",
    )
    n: int | None = Field(None, ge=1, description="how many rows to take; all if not given")
    split: str = Field(
        "train", description="train or heldout of a generator; validation of a curate stage; a Hub data set's"
    )
    params: dict[str, Any] = Field(default_factory=dict, description="parameters of a generator")
    columns: dict[str, str] = Field(default_factory=dict, description="ours: theirs, e.g. {prompt: question}")
    task: str | None = Field(None, description="sets the column `task`, which `when` reads")
    mode: Mode | Literal["mixed"] | None = Field(None, description="mode of these prompts; mixed draws one a prompt")
    weight: float = Field(1.0, gt=0, description="share of the batch relative to the other sources")
    environment: EnvironmentUse | None = Field(None, description="what answers tool calls: a name, or a mapping")
    revision: str | None = Field(None, description="Hub revision of the data set")
    on_bad_row: Literal["refuse", "skip"] = Field(
        "refuse", description="a malformed or too long row: an error, or left out"
    )
    max_bad_share: float = Field(0.01, ge=0, le=1, description="with skip: more malformed rows than this are an error")

    @field_validator("environment", mode="before")
    @classmethod
    def _environment(cls, value: Any) -> Any:
        return as_mapping(value, "use")


class DataSource(PromptSource):
    """A source of training conversations in `sft`."""

    flag: Literal["/think", "/no_think", "mixed"] | None = Field(
        None,
        description="appended to the last user turn; mixed: the row's own mode decides, a third has no flag",
    )
    unflagged: float = Field(
        1 / 3, ge=0, le=1, description="with flag: mixed, share of the thinking rows without one: the default mode"
    )
    in_system: float = Field(0.0, ge=0, le=1, description="share of the flags that stand in the system message")
    hard_switch: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the rows without thinking that are asked with enable_thinking=False, whatever their flag",
    )


def judge_source(judge: JudgeModel) -> ModelSource:
    """The model of a judge that the run holds."""
    return ModelSource.model_validate({"from": judge.source, "revision": judge.revision})


def as_mapping(value: Any, key: str) -> Any:
    return {key: value} if isinstance(value, str) else value


Model = Annotated[ModelSource, Field(description="a stage, base, builtin:tiny, a folder, a Hub id, or a mapping")]


class RewardUse(Strict):
    """One reward of a mixture."""

    use: str = Field(description="a built-in, package.module:attr, or path/to/file.py:attr")
    weight: float = Field(1.0, description="its share of the sum")
    params: dict[str, Any] = Field(default_factory=dict, description="the reward's own parameters")
    when: dict[str, Any] = Field(default_factory=dict, description="rows it applies to, e.g. {task: math}")
    gate: bool = Field(False, description="the others count only where this one is positive; adds nothing itself")
    timeout: float = Field(30.0, gt=0, description="seconds for one batch of completions")
    sees: Literal["answer", "completion"] | None = Field(
        None, description="what it judges; built-ins default to the answer, functions to the completion"
    )
    judge: JudgeModel | None = Field(None, description="the language model that a judging reward asks")
    model: Model | None = Field(None, description="the sequence classifier that `reward_model` asks")
    confine: bool | None = Field(None, description=CONFINE)
    needs: Access | None = Field(None, description=NEEDS)

    @field_validator("judge", "model", mode="before")
    @classmethod
    def _source(cls, value: Any) -> Any:
        return as_mapping(value, "from")

    @model_validator(mode="after")
    def _access(self) -> Self:
        check_access(self.confine, self.needs)
        return self


class TaskUse(Strict):
    """A task: one of the package by name (`all` for every one), or prompts with the rewards that judge them."""

    use: str | None = Field(None, description="a task of the package, or `all`")
    name: str | None = Field(None, description="of a task of your own; what metrics call it")
    prompts: PromptSource | None = Field(None, description="the prompts of a task of your own")
    rewards: tuple[RewardUse, ...] | None = Field(None, description="the rewards of a task of your own")
    weight: float | None = Field(None, gt=0, description="share of the batch relative to the other tasks")
    n: int | None = Field(None, ge=1, description="how many prompts")
