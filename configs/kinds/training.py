"""The stages with a learner, but for `grpo`: `sft` and `distill`.

Choices that the Qwen3 report doesn't disclose (learning rates, batch sizes, clip ranges, mixtures) are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from posttrain.configs.nodes.declaration import (
    Actor,
    Declaration,
    Generation,
    ModelInput,
    RowForm,
    SourceInput,
    source_inputs,
)
from posttrain.configs.nodes.inputs import DataSource, Model, ModelSource, PromptSource, Sampling, as_mapping
from posttrain.configs.nodes.stage import StageBase
from posttrain.configs.nodes.strict import Strict, differing


class Optimizer(Strict):
    """AdamW and its schedule, after a linear warm-up of `warmup` steps."""

    lr: float = Field(1e-4, gt=0, description="the learning rate, after the warm-up")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="how the learning rate falls until the last step"
    )
    warmup: int = Field(0, ge=0, description="optimizer steps: `minibatches` of them make a step of grpo")
    weight_decay: float = Field(0.0, ge=0, description="of weight matrices; norms and biases have none")
    betas: tuple[float, float] = Field((0.9, 0.95), description="AdamW's decay rates of both moments")
    clip_norm: float = Field(1.0, gt=0, description="the largest norm of a step's gradient")


class Lora(Strict):
    """Low-rank adapters (peft) instead of full weights."""

    rank: int = Field(16, ge=1, description="of the adapters")
    alpha: float = Field(32.0, description="adapters are scaled by alpha / rank")
    targets: Literal["all-linear"] | tuple[str, ...] = Field("all-linear", description="the layers that get adapters")


class TrainingStage(StageBase):
    """What stages with a learner share."""

    model: Model
    steps: int = Field(100, ge=1, description="training steps")
    optimizer: Optimizer = Field(Optimizer(), description="AdamW and its schedule")
    lora: Lora | None = Field(None, description="low-rank adapters instead of full weights")
    control: bool = Field(False, description="a comparison: not named among the run's trained models")
    micro_tokens: int = Field(
        8192, ge=16, description="most tokens of one packed forward pass a rank; a longer sequence runs alone"
    )
    checkpoint_every: int = Field(0, ge=0, description="steps between resumable checkpoints; 0: only when stopped")
    keep_checkpoints: int = Field(2, ge=1, description="how many resumable checkpoints stay")
    max_skipped: int = Field(
        3, ge=1, description="steps in a row with a loss or gradient that isn't finite, and no effect, that end the run"
    )

    @property
    def length(self) -> tuple[Literal["steps", "epochs"], float]:
        """How long it trains, and the field that sets it."""
        return "steps", self.steps


class Validation(Strict):
    """Rows whose loss is taken while a stage trains, and which it learns nothing from."""

    data: tuple[DataSource, ...] = Field(min_length=1)
    every: int = Field(10, ge=1, description="steps; and behind the last one")

    _sources = field_validator("data", mode="before")(StageBase._sources.__func__)  # type: ignore[attr-defined]


class Sft(TrainingStage):
    """Supervised fine-tuning on a weighted mixture: cold start, fusion, off-policy distillation."""

    kind: Literal["sft"]
    data: tuple[DataSource, ...] = Field(description="the sources of the mixture")
    epochs: float | None = Field(
        None, gt=0, allow_inf_nan=False,
        description="instead of `steps`: as many as it takes for so many times the rows of all sources",
    )  # fmt: skip
    batch_size: int = Field(32, ge=1, description="sequences a step, over all ranks")
    max_length: int = Field(
        1024, ge=8, description="tokens; longer conversations are malformed rows (`on_bad_row`), plain documents cut"
    )
    multi_turn: float = Field(0.0, ge=0, le=1, description="share of rows that get earlier turns of other rows")
    turns: Literal["last", "each", "all"] = Field(
        "last",
        description="targets: the last assistant turn; or each, as a sample of its own, both with the history as it "
        "is in use; or all in one sample, think blocks kept",
    )
    text: bool = Field(False, description="plain documents (column `text`), loss on every token: pre-training")
    validation: Validation | None = Field(None, description="held-out rows; their loss is `validation_loss`")

    @model_validator(mode="before")
    @classmethod
    def _one_length(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and data.get("epochs") is not None and data.get("steps") is not None:
            raise ValueError("say either epochs or steps")
        return data

    @property
    def length(self) -> tuple[Literal["steps", "epochs"], float]:
        return ("steps", self.steps) if self.epochs is None else ("epochs", self.epochs)

    def declare(self) -> Declaration:
        """The learner alone: it trains on rows."""
        form: RowForm = "documents" if self.text else "conversations"
        validation = self.validation.data if self.validation else ()
        return Declaration(
            gives="model",
            inputs=(
                ModelInput(at=("model",), source=self.model, holder="learner"),
                *source_inputs("data", self.data, "training", form=form),
                *source_inputs("data", validation, "validation", "validation", form=form),
            ),
            actors=frozenset({"learner"}),
            tokens=None if self.epochs else self.steps * self.batch_size * self.max_length,
            training=self,
            rendering="posttrain.stages.data.training_rows",
        )

    @model_serializer(mode="wrap")
    def _as_said(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = handler(self)
        del found["steps" if self.epochs is not None else "epochs"]
        if self.validation is None:
            del found["validation"]
        return found


class TeacherChoice(ModelSource):
    """A teacher, and the prompts it is asked about."""

    when: dict[str, Any] = Field(
        default_factory=dict, description="rows it teaches, by column, e.g. {task: math}; the first that fits does"
    )


class Distill(TrainingStage):
    """On-policy distillation: the student samples, the teacher's distribution is the target (report, 4.5).

    With `stored`, off-policy: the sequences and distributions that a `sample` stage stored are the targets.
    """

    kind: Literal["distill"]
    teacher: tuple[TeacherChoice, ...] = Field((), description="the model, or models, whose distribution is the target")
    prompts: tuple[PromptSource, ...] = Field((), description="what the student answers")
    stored: PromptSource | None = Field(None, description="a `sample` stage that has `store`; instead of the two above")
    prompts_per_step: int = Field(64, ge=1, description="with `stored`: sequences")
    group_size: int = Field(1, ge=1, description="completions per prompt")
    divergence: Literal["forward_kl", "reverse_kl", "jsd", "skew_forward_kl", "skew_reverse_kl", "policy_gradient"] = (
        Field("reverse_kl", description="policy_gradient: the reverse KL's, by the sampled tokens alone")
    )
    beta: float = Field(0.5, gt=0, lt=1, description="weight of the teacher in jsd; the mixture's share in skew_*")
    top_k: int = Field(0, ge=0, description="compare this many ids and a bucket for the rest; 0: the whole vocabulary")
    support: Literal["teacher", "student"] = Field("teacher", description="whose likeliest ids top_k takes")
    alarm: float = Field(
        0.1, gt=0, le=1, description="warn when the share of truncated answers rose by this much since the start"
    )
    sampling: Sampling = Field(Sampling(), description="how the student samples")

    @field_validator("teacher", mode="before")
    @classmethod
    def _teachers(cls, value: Any) -> Any:
        values = value if isinstance(value, list | tuple) else [value]
        return [as_mapping(v, "from") for v in values]

    @field_validator("stored", mode="before")
    @classmethod
    def _stored(cls, value: Any) -> Any:
        return as_mapping(value, "from")

    @model_validator(mode="after")
    def _one_form(self) -> Distill:
        if (self.stored is None) == (not self.teacher) or (self.stored is None) == (not self.prompts):
            raise ValueError("name `teacher` and `prompts`, or `stored` alone")
        if self.stored is not None and self.divergence == "policy_gradient":
            raise ValueError("divergence: policy_gradient needs the student's own samples: leave `stored` out")
        plain = Sampling(max_tokens=self.sampling.max_tokens, thinking_budget=self.sampling.thinking_budget)
        if self.divergence == "policy_gradient" and self.sampling != plain:
            raise ValueError("divergence: policy_gradient compares what was sampled: temperature 1, top_p 1, top_k 0")
        if self.stored is not None and self.top_k:
            raise ValueError("what is stored decides how many ids are compared: leave top_k out")
        if self.top_k and self.divergence == "policy_gradient":
            raise ValueError("divergence: policy_gradient looks at the sampled token alone: leave top_k out")
        return self

    def declare(self) -> Declaration:
        """The student samples and its teachers score; with `stored`, nothing is sampled."""
        samples = self.stored is None
        actors: set[Actor] = {"learner", "rollout", "teacher"} if samples else {"learner"}
        return Declaration(
            gives="model",
            inputs=(
                ModelInput(at=("model",), source=self.model, holder="learner"),
                *(
                    ModelInput(at=("teacher", number), source=teacher, holder="learner")
                    for number, teacher in enumerate(self.teacher)
                ),
                *source_inputs("prompts", self.prompts, "prompts"),
                *([SourceInput(at=("stored",), source=self.stored, role="material")] if self.stored else ()),
            ),
            generations=(
                (Generation(model=self.model, sources=self.prompts, max_tokens=self.sampling.max_tokens),)
                if samples
                else ()
            ),
            actors=frozenset(actors),
            tokens=self.steps * self.prompts_per_step * self.group_size * self.sampling.max_tokens,
            training=self,
        )

    @model_validator(mode="after")
    def _none_without_effect(self) -> Distill:
        if self.stored is None:
            return self
        useless = [name for name in ("group_size", "sampling", "alarm", "support") if name in differing(self)]
        if useless:
            raise ValueError(f"with `stored` the student samples nothing: leave {', '.join(useless)} out")
        more = sorted(differing(self.stored) - {"source"})
        if more:
            raise ValueError(f"all that `{self.stored.source}` stored is read, as it is: leave {', '.join(more)} out")
        return self
