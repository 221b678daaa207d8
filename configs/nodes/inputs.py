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

    max_tokens: int = Field(64, ge=1, description="Most tokens per completion, thinking included.")
    temperature: float = Field(1.0, ge=0, description="Sampling temperature; 0 is greedy.")
    top_p: float = Field(
        1.0, gt=0, le=1, description="Sample from the most likely tokens with this total probability; 1 keeps all."
    )
    top_k: int = Field(0, ge=0, description="Sample from this many most likely tokens; 0 keeps all.")
    thinking_budget: int | None = Field(
        None, ge=0, description="Most tokens inside the think block; then a text that ends the thinking is inserted."
    )


class ModelSource(Strict):
    """A model to start from, where a plain name doesn't say enough."""

    source: str = Field(alias="from", description="A stage, `base`, `builtin:NAME`, a folder, or a Hub id.")
    revision: str | None = Field(None, description="Revision on the Hub.")
    layers: tuple[int, ...] | None = Field(
        None, description="Keep only these decoder layers, counted from 0: a pruned student."
    )
    scratch: dict[str, Any] | None = Field(
        None,
        description=(
            "Start from random weights of a Qwen3 configuration with these values, and the source's tokenizer."
        ),
    )


class PromptSource(Strict):
    """Where prompts (or rows) come from, and how their columns map to ours."""

    source: str = Field(
        alias="from",
        description=("A stage, `builtin:NAME`, `reasoning_gym:TASK`, a .jsonl or .parquet file, or `hf:OWNER/NAME`."),
    )
    n: int | None = Field(None, ge=1, description="Number of rows to take; default: all.")
    split: str = Field(
        "train",
        description=(
            "`train` or `heldout` of a generator, `validation` of a `curate` stage, or a split of a Hub data set."
        ),
    )
    params: dict[str, Any] = Field(default_factory=dict, description="Parameters of a generator.")
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="Column names to map, as {our name: name in the source}, such as {prompt: question}.",
    )
    task: str | None = Field(None, description="Value of the column `task`, which `when` reads.")
    mode: Mode | Literal["mixed"] | None = Field(
        None, description="How these prompts ask for thinking; `mixed` draws a mode per prompt."
    )
    weight: float = Field(1.0, gt=0, description="Share of the batch, relative to the other sources.")
    environment: EnvironmentUse | None = Field(
        None, description="The environment that answers the model's tool calls: a name or a mapping."
    )
    revision: str | None = Field(None, description="Revision of a Hub data set.")
    on_bad_row: Literal["refuse", "skip"] = Field(
        "refuse", description="What a malformed or too long row does: `refuse` is an error, `skip` leaves the row out."
    )
    max_bad_share: float = Field(
        0.01, ge=0, le=1, description="With `on_bad_row: skip`, a larger share of malformed rows than this is an error."
    )

    @field_validator("environment", mode="before")
    @classmethod
    def _environment(cls, value: Any) -> Any:
        return as_mapping(value, "use")


class DataSource(PromptSource):
    """A source of training conversations in `sft`."""

    flag: Literal["/think", "/no_think", "mixed"] | None = Field(
        None, description="Flag to append to the last user turn. `mixed` takes it from the row's own mode."
    )
    unflagged: float = Field(
        1 / 3,
        ge=0,
        le=1,
        description=("With `flag: mixed`, share of the thinking rows that get no flag, since thinking is the default."),
    )
    in_system: float = Field(
        0.0, ge=0, le=1, description="Share of the flags that are written into the system message instead."
    )
    hard_switch: float = Field(
        0.0,
        ge=0,
        le=1,
        description=(
            "Share of the rows without thinking that are rendered with `enable_thinking=False`, whatever their flag."
        ),
    )


def judge_source(judge: JudgeModel) -> ModelSource:
    """The model of a judge that the run holds."""
    return ModelSource.model_validate({"from": judge.source, "revision": judge.revision})


def as_mapping(value: Any, key: str) -> Any:
    return {key: value} if isinstance(value, str) else value


Model = Annotated[
    ModelSource, Field(description="A stage, `base`, `builtin:NAME`, a folder, a Hub id, or a mapping {from: ...}.")
]


class RewardUse(Strict):
    """One reward of a mixture."""

    use: str = Field(description="A built-in reward, `package.module:attribute`, or `path/to/file.py:attribute`.")
    weight: float = Field(1.0, description="Factor of this reward in the score.")
    params: dict[str, Any] = Field(default_factory=dict, description="Parameters of the reward.")
    when: dict[str, Any] = Field(
        default_factory=dict, description="Rows that the reward applies to, by column, such as {task: math}."
    )
    gate: bool = Field(
        False,
        description=(
            "Whether the other rewards count only where this one is positive. A gate adds nothing to the score."
        ),
    )
    timeout: float = Field(30.0, gt=0, description="Seconds for one batch of completions.")
    sees: Literal["answer", "completion"] | None = Field(
        None,
        description=(
            "What is judged. Default: the answer after the think block for built-ins, the whole "
            "completion for functions."
        ),
    )
    judge: JudgeModel | None = Field(None, description="The language model that an LLM judge asks.")
    model: Model | None = Field(None, description="The sequence classifier that the reward `reward_model` asks.")
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

    use: str | None = Field(None, description="A packaged task, or `all`.")
    name: str | None = Field(None, description="Name of a task of your own, used in metrics.")
    prompts: PromptSource | None = Field(None, description="Prompts of a task of your own.")
    rewards: tuple[RewardUse, ...] | None = Field(None, description="Rewards of a task of your own.")
    weight: float | None = Field(None, gt=0, description="Share of the batch, relative to the other tasks.")
    n: int | None = Field(None, ge=1, description="Number of prompts.")
