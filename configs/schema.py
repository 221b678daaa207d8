"""The recipe: what a YAML file may say. Unknown keys are refused; the same field means the same everywhere.

Fields under `cluster` and `logging` are not part of a stage's key: changing them reuses finished stages.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from posttrain.configs.access import Access as Access
from posttrain.configs.agents import EnvironmentUse as EnvironmentUse
from posttrain.configs.data_stages import Curate as Curate
from posttrain.configs.data_stages import Decontaminate as Decontaminate
from posttrain.configs.data_stages import Deduplicate as Deduplicate
from posttrain.configs.data_stages import Domains as Domains
from posttrain.configs.data_stages import FilterUse as FilterUse
from posttrain.configs.data_stages import Keep as Keep
from posttrain.configs.data_stages import Sample as Sample
from posttrain.configs.data_stages import Store as Store
from posttrain.configs.data_stages import WithoutThinking as WithoutThinking
from posttrain.configs.evaluation import AutoEvaluate as AutoEvaluate
from posttrain.configs.evaluation import Evaluate as Evaluate
from posttrain.configs.evaluation import Suite as Suite
from posttrain.configs.evaluation import SuiteSampling as SuiteSampling
from posttrain.configs.evaluation import Threshold as Threshold
from posttrain.configs.gates import Gate as Gate
from posttrain.configs.grpo import Asynchronous as Asynchronous
from posttrain.configs.grpo import Covariance as Covariance
from posttrain.configs.grpo import Difficulty as Difficulty
from posttrain.configs.grpo import EntropyControl as EntropyControl
from posttrain.configs.grpo import Grpo as Grpo
from posttrain.configs.grpo import Kl as Kl
from posttrain.configs.grpo import TeacherUse as TeacherUse
from posttrain.configs.grpo import Watch as Watch
from posttrain.configs.inputs import DataSource as DataSource
from posttrain.configs.inputs import Model as Model
from posttrain.configs.inputs import ModelSource as ModelSource
from posttrain.configs.inputs import PromptSource as PromptSource
from posttrain.configs.inputs import RewardUse as RewardUse
from posttrain.configs.inputs import Sampling as Sampling
from posttrain.configs.inputs import TaskUse as TaskUse
from posttrain.configs.inputs import as_mapping
from posttrain.configs.judges import JudgeModel as JudgeModel
from posttrain.configs.machine import Cluster as Cluster
from posttrain.configs.machine import LearnerCluster as LearnerCluster
from posttrain.configs.machine import RolloutCluster as RolloutCluster
from posttrain.configs.machine import SandboxCluster as SandboxCluster
from posttrain.configs.machine import TeacherCluster as TeacherCluster
from posttrain.configs.stage import StageBase as StageBase
from posttrain.configs.strict import Strict as Strict
from posttrain.configs.training import Distill as Distill
from posttrain.configs.training import Lora as Lora
from posttrain.configs.training import Optimizer as Optimizer
from posttrain.configs.training import Sft as Sft
from posttrain.configs.training import TeacherChoice as TeacherChoice
from posttrain.configs.training import TrainingStage as TrainingStage

Stage = Annotated[Curate | Sample | Sft | Grpo | Distill | Evaluate, Field(discriminator="kind")]


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
