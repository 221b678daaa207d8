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

    lr: float = Field(1e-4, gt=0, description="Peak learning rate.")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant",
        description=(
            "How the learning rate changes after warm-up: stays constant, or falls to 0 along a line or a cosine."
        ),
    )
    warmup: int = Field(
        0, ge=0, description="Optimizer steps of linear warm-up. A `grpo` step takes `minibatches` optimizer steps."
    )
    weight_decay: float = Field(0.0, ge=0, description="AdamW's weight decay.")
    betas: tuple[float, float] = Field((0.9, 0.95), description="AdamW's two decay rates.")
    clip_norm: float = Field(1.0, gt=0, description="Largest gradient norm; larger gradients are scaled down to it.")


class Lora(Strict):
    """Low-rank adapters (peft) instead of full weights."""

    rank: int = Field(16, ge=1, description="Rank of the adapters.")
    alpha: float = Field(32.0, description="Scale of the adapters: their output is multiplied by `alpha / rank`.")
    targets: Literal["all-linear"] | tuple[str, ...] = Field(
        "all-linear", description="Names of the modules that get adapters, or `all-linear`."
    )


class TrainingStage(StageBase):
    """What stages with a learner share."""

    model: Model
    steps: int = Field(100, ge=1, description="Number of training steps.")
    optimizer: Optimizer = Field(Optimizer(), description="AdamW's settings and the learning-rate schedule.")
    lora: Lora | None = Field(
        None, description="Train low-rank adapters instead of all weights. The stage's model has them merged."
    )
    control: bool = Field(
        False, description="Whether the stage is a comparison: its model is not listed among the run's models."
    )
    micro_tokens: int = Field(
        8192,
        ge=16,
        description=("Most tokens of one packed forward pass per rank. A longer sequence gets a separate pass."),
    )
    checkpoint_every: int = Field(
        0, ge=0, description="Steps between resumable checkpoints; 0 saves one only when the run is stopped."
    )
    keep_checkpoints: int = Field(2, ge=1, description="Number of resumable checkpoints to keep.")
    max_skipped: int = Field(
        3,
        ge=1,
        description=(
            "The run fails after this many steps in a row with a loss or gradient that is not finite. "
            "Such steps are skipped."
        ),
    )

    @property
    def length(self) -> tuple[Literal["steps", "epochs"], float]:
        """How long it trains, and the field that sets it."""
        return "steps", self.steps


class Validation(Strict):
    """Rows whose loss is taken while a stage trains, and which it learns nothing from."""

    data: tuple[DataSource, ...] = Field(min_length=1, description="Sources of the validation rows.")
    every: int = Field(10, ge=1, description="Steps between measurements. The last step is always measured.")

    _sources = field_validator("data", mode="before")(StageBase._sources.__func__)  # type: ignore[attr-defined]


class Sft(TrainingStage):
    """Supervised fine-tuning on a weighted mixture: cold start, fusion, off-policy distillation."""

    kind: Literal["sft"] = Field(description="Supervised fine-tuning.")
    data: tuple[DataSource, ...] = Field(description="Training data: one source or a list, mixed by `weight`.")
    epochs: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Length of the stage in passes over the rows of all sources; replaces `steps`.",
    )
    batch_size: int = Field(32, ge=1, description="Sequences per step, over all ranks.")
    max_length: int = Field(
        1024,
        ge=8,
        description=(
            "Most tokens per sequence. Longer conversations are malformed rows (see `on_bad_row`); plain "
            "documents are cut."
        ),
    )
    multi_turn: float = Field(
        0.0, ge=0, le=1, description="Share of the rows that get earlier turns made of other rows."
    )
    turns: Literal["last", "each", "all"] = Field(
        "last",
        description=(
            "Which assistant turns are trained on. `last`: the last one. `each`: every turn, as a sample "
            "with the history that the model sees in use. `all`: all turns in one sample, with their "
            "think blocks kept."
        ),
    )
    text: bool = Field(False, description="Train on every token of plain documents (column `text`): pre-training.")
    validation: Validation | None = Field(
        None, description="Rows that are not trained on; their loss is logged as `validation_loss`."
    )

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
        default_factory=dict,
        description=(
            "Rows that this teacher teaches, by column, such as {task: math}. The first teacher that "
            "matches a row teaches it."
        ),
    )


class Distill(TrainingStage):
    """On-policy distillation: the student samples, the teacher's distribution is the target (report, 4.5).

    With `stored`, off-policy: the sequences and distributions that a `sample` stage stored are the targets.
    """

    kind: Literal["distill"] = Field(description="On-policy distillation, or distillation from stored distributions.")
    teacher: tuple[TeacherChoice, ...] = Field(
        (), description="The teacher, or a list of teachers that are chosen by row."
    )
    prompts: tuple[PromptSource, ...] = Field((), description="Prompts that the student answers.")
    stored: PromptSource | None = Field(
        None,
        description=(
            "A `sample` stage with `store`, whose sequences and distributions are the targets. Replaces "
            "`teacher` and `prompts`."
        ),
    )
    prompts_per_step: int = Field(64, ge=1, description="Prompts per step; with `stored`, sequences per step.")
    group_size: int = Field(1, ge=1, description="Completions per prompt.")
    divergence: Literal["forward_kl", "reverse_kl", "jsd", "skew_forward_kl", "skew_reverse_kl", "policy_gradient"] = (
        Field(
            "reverse_kl",
            description=(
                "The loss between the student's and the teacher's distribution. `policy_gradient` estimates "
                "the reverse KL from the sampled tokens alone."
            ),
        )
    )
    beta: float = Field(
        0.5, gt=0, lt=1, description="Weight of the teacher in `jsd`; share of the mixture in the `skew` divergences."
    )
    top_k: int = Field(
        0,
        ge=0,
        description=(
            "Number of token ids to compare, with one bucket for all others; 0 compares the whole vocabulary."
        ),
    )
    support: Literal["teacher", "student"] = Field("teacher", description="Whose most likely ids `top_k` takes.")
    alarm: float = Field(
        0.1, gt=0, le=1, description="Warn when the share of truncated answers has risen by this much since the start."
    )
    sampling: Sampling = Field(Sampling(), description="How the student samples.")

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
