"""The recipe: what a YAML file may say. Unknown keys are refused; the same field means the same everywhere.

Fields under `cluster` and `logging` are not part of a stage's key: changing them reuses finished stages.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    SerializeAsAny,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)

from posttrain.configs.kinds.data_stages import Curate as Curate
from posttrain.configs.kinds.data_stages import Decontaminate as Decontaminate
from posttrain.configs.kinds.data_stages import Deduplicate as Deduplicate
from posttrain.configs.kinds.data_stages import Domains as Domains
from posttrain.configs.kinds.data_stages import FilterUse as FilterUse
from posttrain.configs.kinds.data_stages import Keep as Keep
from posttrain.configs.kinds.data_stages import SampleStage as SampleStage
from posttrain.configs.kinds.data_stages import Store as Store
from posttrain.configs.kinds.data_stages import WithoutThinking as WithoutThinking
from posttrain.configs.kinds.evaluation import AutoEvaluate as AutoEvaluate
from posttrain.configs.kinds.evaluation import Evaluate as Evaluate
from posttrain.configs.kinds.evaluation import Suite as Suite
from posttrain.configs.kinds.evaluation import SuiteSampling as SuiteSampling
from posttrain.configs.kinds.evaluation import Threshold as Threshold
from posttrain.configs.kinds.grpo import Asynchronous as Asynchronous
from posttrain.configs.kinds.grpo import Covariance as Covariance
from posttrain.configs.kinds.grpo import Difficulty as Difficulty
from posttrain.configs.kinds.grpo import EntropyControl as EntropyControl
from posttrain.configs.kinds.grpo import Grpo as Grpo
from posttrain.configs.kinds.grpo import Kl as Kl
from posttrain.configs.kinds.grpo import TeacherUse as TeacherUse
from posttrain.configs.kinds.grpo import Watch as Watch
from posttrain.configs.kinds.training import Distill as Distill
from posttrain.configs.kinds.training import Lora as Lora
from posttrain.configs.kinds.training import Optimizer as Optimizer
from posttrain.configs.kinds.training import Sft as Sft
from posttrain.configs.kinds.training import TeacherChoice as TeacherChoice
from posttrain.configs.kinds.training import TrainingStage as TrainingStage
from posttrain.configs.nodes.access import Access as Access
from posttrain.configs.nodes.agents import EnvironmentUse as EnvironmentUse
from posttrain.configs.nodes.gates import Gate as Gate
from posttrain.configs.nodes.inputs import DataSource as DataSource
from posttrain.configs.nodes.inputs import Model as Model
from posttrain.configs.nodes.inputs import ModelSource as ModelSource
from posttrain.configs.nodes.inputs import PromptSource as PromptSource
from posttrain.configs.nodes.inputs import RewardUse as RewardUse
from posttrain.configs.nodes.inputs import Sampling as Sampling
from posttrain.configs.nodes.inputs import TaskUse as TaskUse
from posttrain.configs.nodes.inputs import as_mapping
from posttrain.configs.nodes.judges import JudgeModel as JudgeModel
from posttrain.configs.nodes.machine import Cluster as Cluster
from posttrain.configs.nodes.machine import LearnerCluster as LearnerCluster
from posttrain.configs.nodes.machine import RolloutCluster as RolloutCluster
from posttrain.configs.nodes.machine import SandboxCluster as SandboxCluster
from posttrain.configs.nodes.machine import TeacherCluster as TeacherCluster
from posttrain.configs.nodes.own_kinds import own_kind
from posttrain.configs.nodes.stage import StageBase as StageBase
from posttrain.configs.nodes.strict import Strict as Strict


def _stage(value: Any, packaged: ValidatorFunctionWrapHandler) -> Any:
    """A stage of a kind of the user's is checked by its own class."""
    own = own_kind(value.get("kind")) if isinstance(value, dict) else None
    return packaged(value) if own is None else own.model_validate(value)


Stage = Annotated[
    Curate | SampleStage | Sft | Grpo | Distill | Evaluate,
    Field(discriminator="kind"),
    WrapValidator(_stage),
    SerializeAsAny(),
]


class Logging(Strict):
    to: tuple[Literal["tensorboard", "trackio", "wandb"], ...] = Field((), description="Loggers besides metrics.jsonl.")
    rollouts_every: int = Field(10, ge=0, description="Steps between saved rollouts (Parquet files); 0 saves none.")


class Recipe(Strict):
    """A whole pipeline."""

    extends: str | None = Field(
        None,
        exclude=True,
        description="A packaged recipe, or a path from this file's folder, that this recipe changes.",
    )
    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="Name of the recipe; its runs are stored in runs/NAME."
    )
    description: str = Field("", description="What the recipe does, in a sentence.")
    seed: int = Field(17, description="Random seed of all stages.")
    base: Model | None = Field(
        None, description="The model to start from: `builtin:NAME`, a folder, a Hub id, or a mapping."
    )
    cluster: Cluster = Field(
        Cluster(), description="Where the run's processes run. Changing it reuses finished stages."
    )
    stages: dict[str, Stage] = Field(
        description="The stages by name. A stage names its inputs, so the stages form a graph."
    )
    evaluate: AutoEvaluate = Field(AutoEvaluate(), description="Suites that run after stages.")
    thresholds: tuple[Threshold, ...] = Field(
        (), description="Conditions on the results; a run that misses one exits with code 1."
    )
    logging: Logging = Field(Logging(), description="Loggers and saved rollouts.")

    @field_validator("base", mode="before")
    @classmethod
    def _base(cls, value: Any) -> Any:
        return as_mapping(value, "from")

    @field_validator("thresholds", mode="before")
    @classmethod
    def _thresholds(cls, value: Any) -> Any:
        return [as_mapping(v, "check") for v in value] if isinstance(value, list | tuple) else value

    @field_validator("stages")
    @classmethod
    def _names(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if not name.replace("_", "").replace("-", "").isalnum() or name == "base":
                raise ValueError(f"stage name {name!r}: use letters, digits, - and _; `base` is taken")
        return value

    @model_validator(mode="after")
    def _not_empty(self) -> Recipe:
        if not self.stages:
            raise ValueError("a recipe needs at least one stage")
        return self
