"""The stages with a learner: `sft`, `grpo` and `distill`.

Choices that the Qwen3 report doesn't disclose (learning rates, batch sizes, clip ranges, mixtures) are ours.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from posttrain.configs.inputs import DataSource, Model, PromptSource, RewardUse, Sampling, TaskUse
from posttrain.configs.stage import StageBase
from posttrain.configs.strict import Strict


class Optimizer(Strict):
    """AdamW and its schedule, after a linear warm-up of `warmup` steps."""

    lr: float = Field(1e-4, gt=0)
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup: int = Field(0, ge=0, description="steps")
    weight_decay: float = Field(0.0, ge=0)
    betas: tuple[float, float] = (0.9, 0.95)
    clip_norm: float = Field(1.0, gt=0)


class Lora(Strict):
    """Low-rank adapters (peft) instead of full weights."""

    rank: int = Field(16, ge=1)
    alpha: float = 32.0
    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"


class TrainingStage(StageBase):
    """What stages with a learner share."""

    model: Model
    steps: int = Field(100, ge=1)
    optimizer: Optimizer = Optimizer()
    lora: Lora | None = None
    control: bool = Field(False, description="a comparison: not named among the run's trained models")
    micro_tokens: int = Field(
        8192, ge=16, description="most tokens of one packed forward pass a rank; a longer sequence runs alone"
    )
    checkpoint_every: int = Field(0, ge=0, description="steps between resumable checkpoints; 0: only when stopped")
    keep_checkpoints: int = Field(2, ge=1, description="how many resumable checkpoints stay")


class Sft(TrainingStage):
    """Supervised fine-tuning on a weighted mixture: cold start, fusion, off-policy distillation."""

    kind: Literal["sft"]
    data: tuple[DataSource, ...]
    batch_size: int = Field(32, ge=1, description="sequences a step, over all ranks")
    max_length: int = Field(1024, ge=8, description="tokens; longer conversations are refused, plain documents cut")
    multi_turn: float = Field(0.0, ge=0, le=1, description="share of rows that get earlier turns of other rows")
    turns: Literal["last", "all"] = Field(
        "last",
        description="targets: the last assistant turn, history rendered as in use; or all turns, think blocks kept",
    )
    text: bool = Field(False, description="plain documents (column `text`), loss on every token: pre-training")


class Grpo(TrainingStage):
    """Reinforcement learning with group-relative advantages (DeepSeekMath 2402.03300; DAPO 2503.14476)."""

    kind: Literal["grpo"]
    prompts: tuple[PromptSource, ...]
    rewards: tuple[RewardUse, ...]
    tasks: tuple[TaskUse, ...] = Field((), description="more prompts, each with the rewards that judge it")
    prompts_per_step: int = Field(16, ge=1)
    group_size: int = Field(8, ge=2)
    minibatches: int = Field(1, ge=1, description="optimizer steps a rollout batch (off-policy when over 1)")
    clip: tuple[float, float] = Field((0.2, 0.28), description="low and high; a higher high is DAPO's clip-higher")
    scale_advantages: Literal["group", "batch", "none"] = Field("group", description="divide by which std")
    aggregate: Literal["token", "sequence"] = Field("token", description="DAPO's token mean or GRPO's sequence mean")
    kl: float = Field(0.0, ge=0, description="weight of the k3 KL to the stage's start")
    combine: Literal["sum_then_normalize", "normalize_then_sum"] = Field(
        "sum_then_normalize",
        description="how several rewards become one advantage; the second is GDPO, which scales by group and batch",
    )
    shuffle_rewards: bool = Field(False, description="a control: rewards permuted over the batch carry no signal")
    sampling: Sampling = Sampling()

    @field_validator("clip")
    @classmethod
    def _clip(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not (0 < value[0] < 1 and value[1] > 0):
            raise ValueError("clip is [low, high]: the ratio stays in 1-low..1+high, so 0 < low < 1 and high > 0")
        return value

    @model_validator(mode="after")
    def _one_scale(self) -> Grpo:
        if not (self.prompts and self.rewards):
            raise ValueError("there is nothing to train on: name `prompts` and `rewards`, or `tasks`")
        if self.combine == "normalize_then_sum" and self.scale_advantages != "group":
            raise ValueError("combine: normalize_then_sum scales by group and batch itself: leave scale_advantages out")
        return self

    @field_validator("sampling")
    @classmethod
    def _whole_distribution(cls, value: Sampling) -> Sampling:
        if value.temperature == 0 or value.top_p < 1 or value.top_k:
            raise ValueError("RL samples from the whole distribution: temperature over 0, top_p 1, top_k 0")
        return value


class Distill(TrainingStage):
    """On-policy distillation: the student samples, the teacher's distribution is the target (report, 4.5)."""

    kind: Literal["distill"]
    teacher: Model
    prompts: tuple[PromptSource, ...]
    prompts_per_step: int = Field(64, ge=1)
    group_size: int = Field(1, ge=1)
    divergence: Literal["forward_kl", "reverse_kl", "jsd"] = "reverse_kl"
    beta: float = Field(0.5, gt=0, lt=1, description="weight of the teacher in jsd")
    sampling: Sampling = Sampling()
