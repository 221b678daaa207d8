"""The recipe: what a YAML file may say. Unknown keys are refused; the same field means the same everywhere.

Choices that the Qwen3 report doesn't disclose (learning rates, batch sizes, clip ranges, mixtures) are ours.
Fields under `cluster` and `logging` don't enter a stage's key: changing them reuses what is done.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from posttrain.configs.agents import EnvironmentUse as EnvironmentUse
from posttrain.configs.judges import JudgeModel as JudgeModel
from posttrain.configs.machine import Cluster as Cluster
from posttrain.configs.machine import LearnerCluster as LearnerCluster
from posttrain.configs.machine import RolloutCluster as RolloutCluster
from posttrain.configs.machine import SandboxCluster as SandboxCluster
from posttrain.configs.strict import Strict as Strict
from posttrain.types import Mode

# ---------------------------------------------------------------- shared nodes


class Sampling(Strict):
    """How to sample. RL needs temperature 1 and no cut: what is scored must be what was sampled."""

    max_tokens: int = Field(64, ge=1, description="most tokens a completion may have, thinking included")
    temperature: float = Field(1.0, ge=0, description="0 is greedy")
    top_p: float = Field(1.0, gt=0, le=1)
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
    split: str = Field("train", description="of a generator: train or heldout; of a Hub data set: its split")
    params: dict[str, Any] = Field(default_factory=dict, description="parameters of a generator")
    columns: dict[str, str] = Field(default_factory=dict, description="ours: theirs, e.g. {prompt: question}")
    task: str | None = Field(None, description="sets the column `task`, which `when` reads")
    mode: Mode | Literal["mixed"] | None = Field(None, description="mode of these prompts; mixed draws one a prompt")
    weight: float = Field(1.0, gt=0, description="share of the batch relative to the other sources")
    environment: EnvironmentUse | None = Field(None, description="what answers tool calls: a name, or a mapping")
    revision: str | None = None

    @field_validator("environment", mode="before")
    @classmethod
    def _environment(cls, value: Any) -> Any:
        return _as_mapping(value, "use")


class DataSource(PromptSource):
    """A source of training conversations in `sft`."""

    flag: Literal["/think", "/no_think", "mixed"] | None = Field(
        None,
        description="appended to the last user turn; mixed: the row's own mode decides, a third has no flag",
    )


def _as_mapping(value: Any, key: str) -> Any:
    return {key: value} if isinstance(value, str) else value


Model = Annotated[ModelSource, Field(description="a stage, base, builtin:tiny, a folder, a Hub id, or a mapping")]


class RewardUse(Strict):
    """One reward of a mixture (DESIGN: the reward contract)."""

    use: str = Field(description="a built-in, package.module:attr, or path/to/file.py:attr")
    weight: float = 1.0
    params: dict[str, Any] = Field(default_factory=dict)
    when: dict[str, Any] = Field(default_factory=dict, description="rows it applies to, e.g. {task: math}")
    gate: bool = Field(False, description="the others count only where this one is positive; adds nothing itself")
    timeout: float = Field(30.0, gt=0, description="seconds for one batch of completions")
    sees: Literal["answer", "completion"] | None = Field(
        None, description="what it judges; built-ins default to the answer, functions to the completion"
    )
    judge: JudgeModel | None = Field(None, description="the language model that a judging reward asks")
    model: Model | None = Field(None, description="the sequence classifier that `reward_model` asks")

    @field_validator("judge", "model", mode="before")
    @classmethod
    def _source(cls, value: Any) -> Any:
        return _as_mapping(value, "from")


class TaskUse(Strict):
    """A task: one of the package by name (`all` for every one), or prompts with the rewards that judge them."""

    use: str | None = Field(None, description="a task of the package, or `all`")
    name: str | None = Field(None, description="of a task of your own; what metrics call it")
    prompts: PromptSource | None = None
    rewards: tuple[RewardUse, ...] | None = None
    weight: float | None = Field(None, gt=0, description="share of the batch relative to the other tasks")
    n: int | None = Field(None, ge=1, description="how many prompts")


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


# ---------------------------------------------------------------- the six kinds


class StageBase(Strict):
    """What all stages share."""

    seed: int | None = Field(None, description="the recipe's seed if not given")
    model: Model | None = None

    @field_validator("model", "teacher", mode="before", check_fields=False)
    @classmethod
    def _model(cls, value: Any) -> Any:
        return _as_mapping(value, "from")

    @field_validator("prompts", "data", "exclude", mode="before", check_fields=False)
    @classmethod
    def _sources(cls, value: Any) -> Any:
        values = value if isinstance(value, list | tuple) else [value]
        return [_as_mapping(v, "from") for v in values]

    @field_validator("rewards", mode="before", check_fields=False)
    @classmethod
    def _rewards(cls, value: Any) -> Any:
        values = value if isinstance(value, list | tuple) else [value]
        return [_as_mapping(v, "use") for v in values]


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
    limit: int | None = Field(None, ge=1)


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


class Suite(Strict):
    """One benchmark: prompts, how they are asked, how they are judged."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    measure: Literal["reward", "mode_following", "budget"] = Field(
        "reward",
        description="mode_following: multi-turn dialogues with flags; budget: accuracy by thinking budget",
    )
    prompts: tuple[PromptSource, ...]
    rewards: tuple[RewardUse, ...] = (RewardUse(use="math"),)
    tasks: tuple[TaskUse, ...] = Field((), description="more prompts, held out, each with the rewards that judge it")
    modes: tuple[Mode, ...] = ("default",)
    k: int = Field(1, ge=1, description="samples a question: avg@k and pass@k")
    budgets: tuple[int, ...] = Field((0, 8, 16, 32), description="thinking budgets, tokens")
    sampling: Sampling = Sampling(temperature=0.6, top_p=0.95, top_k=20)

    _sources = field_validator("prompts", mode="before")(StageBase._sources.__func__)  # type: ignore[attr-defined]
    _rewards = field_validator("rewards", mode="before")(StageBase._rewards.__func__)  # type: ignore[attr-defined]


class Evaluate(StageBase):
    """A table: suite x mode, with bootstrap intervals by question."""

    kind: Literal["evaluate"]
    model: Model
    suites: tuple[Suite, ...]


Stage = Annotated[Curate | Sample | Sft | Grpo | Distill | Evaluate, Field(discriminator="kind")]


# ---------------------------------------------------------------- the recipe


class AutoEvaluate(Strict):
    """Suites that are run after the named stages, as stages of their own (`eval-STAGE`)."""

    suites: tuple[Suite, ...] = ()
    after: tuple[str, ...] = Field((), description="stages, or `base`")
    only: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="stage: the suites to run after it; all if not named"
    )


class Threshold(Strict):
    """A check on evaluation results, printed in the table; a failed one makes the run exit 1."""

    check: str = Field(description="arithmetic over STAGE:SUITE:MODE:METRIC, e.g. `rl:sums:think:accuracy >= 0.9`")
    about: str = ""


class Logging(Strict):
    tensorboard: bool = False
    rollouts_every: int = Field(10, ge=0, description="steps between saved rollouts (Parquet); 0: none")


class Recipe(Strict):
    """A whole pipeline."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    description: str = ""
    seed: int = 17
    base: Model | None = None
    cluster: Cluster = Cluster()
    stages: dict[str, Stage]
    evaluate: AutoEvaluate = AutoEvaluate()
    thresholds: tuple[Threshold, ...] = ()
    logging: Logging = Logging()

    @field_validator("base", mode="before")
    @classmethod
    def _base(cls, value: Any) -> Any:
        return _as_mapping(value, "from")

    @field_validator("thresholds", mode="before")
    @classmethod
    def _thresholds(cls, value: Any) -> Any:
        return [_as_mapping(v, "check") for v in value] if isinstance(value, list | tuple) else value

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
