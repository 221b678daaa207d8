"""Reinforcement learning: the `grpo` stage and its nodes. Choices that the Qwen3 report doesn't disclose are ours."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from posttrain.configs.kinds.algorithms import ALGORITHMS, Algorithm
from posttrain.configs.kinds.training import TrainingStage
from posttrain.configs.nodes.declaration import Declaration, Generation, ModelInput, reward_inputs, source_inputs
from posttrain.configs.nodes.inputs import ModelSource, PromptSource, RewardUse, Sampling, TaskUse, as_mapping
from posttrain.configs.nodes.stage import StageBase
from posttrain.configs.nodes.strict import Strict, differing

Share = Annotated[float, Field(ge=0, le=1)]


class Kl(Strict):
    """Keeps the policy near a reference: the stage's start, or the policy of some steps ago."""

    weight: float = Field(0.0, ge=0, description="Weight of the KL divergence.")
    estimator: Literal["k1", "k2", "k3", "k3_plain"] = Field(
        "k3",
        description=(
            "Estimator of the KL divergence in the loss. `k3_plain` is GRPO's original form, without the ratio."
        ),
    )
    placed: Literal["loss", "reward"] = Field(
        "loss",
        description=(
            "`loss` adds the estimate to the loss; `reward` subtracts k1, summed over the completion, from the reward."
        ),
    )
    refresh_every: int = Field(
        0, ge=0, description="Steps after which the current policy becomes the reference; 0 keeps the first reference."
    )


class TeacherUse(ModelSource):
    """A teacher whose log-probabilities join the advantage: on-policy distillation mixed into RL."""

    weight: float = Field(1.0, ge=0, description="Weight of log(teacher / policy) per token in the advantage.")
    reward_weight: float = Field(1.0, ge=0, description="Weight of the rewards' advantage; 0 distils only.")
    bound: float = Field(5.0, gt=0, description="The log-ratio is clipped to plus or minus this value.")


class ImportanceUse(Strict):
    """Correction for what the rollout engine sampled with against what the learner says of it."""

    mode: Literal["none", "token_tis", "sequence_tis", "token_mis", "sequence_mis", "geometric_mis"] = Field(
        "token_tis",
        description=(
            "Correction of the difference between engine and learner. `tis` truncates the weight at "
            "`cap`; `mis` drops tokens or completions with a weight outside `floor` to `cap`."
        ),
    )
    cap: float = Field(2.0, gt=0, description="Largest importance weight.")
    floor: float = Field(0.0, ge=0, description="Smallest importance weight of the `mis` modes.")
    old: Literal["learner", "engine"] = Field(
        "learner",
        description=(
            "What the policy ratio compares with: the learner before the step, or the engine itself, "
            "without a correction."
        ),
    )
    drop_stale: float | None = Field(
        None,
        gt=0,
        description=(
            "Drop completions with a negative advantage if their mean log(engine / policy) is greater than this."
        ),
    )
    alarm: float = Field(
        0.01,
        gt=0,
        description=(
            "Warn if the KL divergence between engine and learner in a step is greater than this, in nats per token."
        ),
    )

    @model_validator(mode="after")
    def _one_correction(self) -> ImportanceUse:
        if self.floor >= self.cap:
            raise ValueError("importance weights stay in floor..cap: floor below cap")
        set_too = sorted(differing(self) & {"mode", "cap", "floor"})
        if self.old == "engine" and set_too:
            raise ValueError(f"old: engine corrects by the ratio itself: leave {', '.join(set_too)} out")
        return self


class DynamicSampling(Strict):
    """Replace groups whose rewards are all equal (DAPO, 2503.14476, 3.2), within a budget."""

    extra: float = Field(1.0, gt=0, description="Most extra prompts per step, as a share of `prompts_per_step`.")


class Difficulty(Strict):
    """Ask prompts less often that the policy always solves, or never."""

    easy: Share = Field(0.9, description="Pass rate from which a prompt is easy.")
    hard: Share | None = Field(None, description="Pass rate up to which a prompt is hard; default: no prompt is.")
    keep: float = Field(
        0.25, gt=0, le=1, description="Probability that an easy or hard prompt is asked when its turn comes."
    )


class EntropyControl(Strict):
    """Keep the entropy a token in a band: below it a bonus grows, above it the bonus shrinks and turns."""

    band: tuple[float, float] = Field(description="Lowest and highest entropy, in nats per token.")
    step: float = Field(0.001, gt=0, description="Change of the bonus's weight per step.")
    most: float = Field(0.02, gt=0, description="Largest absolute weight of the bonus.")

    @field_validator("band")
    @classmethod
    def _band(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= value[0] < value[1]:
            raise ValueError("an entropy band is [low, high] with 0 <= low < high, in nats per token")
        return value


class Covariance(Strict):
    """Hold back the few tokens that move the entropy most (2505.22617)."""

    kind: Literal["clip", "kl"] = Field(
        description="`clip`: the selected tokens give no gradient. `kl`: their |log ratio| is a penalty."
    )
    share: float = Field(2e-4, gt=0, le=1, description="Share of the tokens that are selected.")
    band: tuple[float, float] = Field((1.0, 5.0), description="`clip`: range of covariances to select from.")
    weight: float = Field(1.0, gt=0, description="`kl`: weight of the penalty.")


class Asynchronous(Strict):
    """Generate while training (AReaL, 2505.24298; PipelineRL, 2509.19128)."""

    ahead: int = Field(1, ge=1, le=8, description="Number of batches that are generated while one is trained on.")
    staleness: int = Field(
        2,
        ge=2,
        le=16,
        description=(
            "Most steps between a group's first token and its training. Unfinished completions continue "
            "in the next batch."
        ),
    )

    @model_validator(mode="after")
    def _room(self) -> Asynchronous:
        if self.staleness <= self.ahead:
            raise ValueError(
                f"a batch begun {self.ahead} steps ahead, with new weights on their way, is {self.ahead + 1} steps old "
                "when it trains: staleness over ahead"
            )
        return self


class Watch(Strict):
    """Held-out questions asked during training: warns when reward rises and they don't."""

    prompts: tuple[PromptSource, ...] = Field(min_length=1, description="Held-out prompts.")
    rewards: tuple[RewardUse, ...] | None = Field(
        None, description="Rewards that judge the answers; default: the stage's rewards."
    )
    every: int = Field(10, ge=1, description="Steps between measurements.")
    rise: float = Field(
        0.1, gt=0, description="Warn if the training reward has risen by this much while the held-out reward has not."
    )

    _sources = field_validator("prompts", mode="before")(StageBase._sources.__func__)  # type: ignore[attr-defined]

    @field_validator("rewards", mode="before")
    @classmethod
    def _own_rewards(cls, value: Any) -> Any:
        return None if value is None else StageBase._rewards(value)


class Grpo(TrainingStage):
    """Reinforcement learning with group-relative advantages (DeepSeekMath 2402.03300; DAPO 2503.14476)."""

    kind: Literal["grpo"] = Field(description="Reinforcement learning.")
    algorithm: Algorithm | None = Field(
        None,
        description=(
            "A named algorithm, which sets defaults for surrogate, clip, aggregate, scale_advantages and "
            "similar settings."
        ),
    )
    prompts: tuple[PromptSource, ...] = Field(
        description="Prompts to train on: one source or a list, mixed by `weight`."
    )
    rewards: tuple[RewardUse, ...] = Field(description="Rewards that score each completion, one or a list.")
    tasks: tuple[TaskUse, ...] = Field(
        (), description="Tasks whose prompts are added, each with the rewards that judge it."
    )
    prompts_per_step: int = Field(16, ge=1, description="Prompts per step.")
    group_size: int = Field(8, ge=2, description="Completions per prompt.")
    minibatches: int = Field(1, ge=1, description="Optimizer steps per rollout batch; more than 1 trains off-policy.")
    surrogate: Literal["clip", "gspo", "gspo_token", "cispo", "sapo"] = Field(
        "clip", description="The policy-gradient objective."
    )
    clip: tuple[float, float] = Field(
        (0.2, 0.28), description="The ratio is clipped to 1 - low and 1 + high. A greater high is DAPO's clip-higher."
    )
    dual_clip: float | None = Field(
        None, gt=1, description="Largest ratio for tokens with a negative advantage; default: no limit."
    )
    cap: float = Field(5.0, gt=0, description="`cispo`: largest ratio.")
    tau: tuple[float, float] = Field(
        (1.0, 1.05), description="`sapo`: temperatures for positive and negative advantages."
    )
    scale_advantages: Literal["group", "batch", "none"] = Field(
        "group",
        description=("The standard deviation that advantages are divided by: the group's, the batch's, or none."),
    )
    aggregate: Literal["token", "sequence", "prompt", "constant"] = Field(
        "token",
        description=(
            "What has equal weight in the loss: tokens (DAPO), completions (`sequence`, GRPO) or prompts "
            "(ScaleRL). `constant` divides by completions times `max_tokens` (Dr. GRPO)."
        ),
    )
    kl: Kl = Field(Kl(), description="Penalty on the KL divergence from a reference policy; a number is its weight.")
    teacher: TeacherUse | None = Field(
        None, description="A teacher whose log-probabilities are added to the advantage."
    )
    importance: ImportanceUse = Field(
        ImportanceUse(),
        description="Correction of the difference between the engine's and the learner's probabilities.",
    )
    combine: Literal["sum_then_normalize", "normalize_then_sum"] = Field(
        "sum_then_normalize",
        description=(
            "How several rewards become one advantage. `normalize_then_sum` is GDPO, which scales each "
            "reward by group and the sum by batch."
        ),
    )
    mask_truncated: bool = Field(
        False, description="Completions cut at `max_tokens` give no gradient (overlong filter)."
    )
    dynamic_sampling: DynamicSampling | None = Field(None, description="Replace groups whose rewards are all equal.")
    difficulty: Difficulty | None = Field(
        None, description="Ask prompts less often that the policy always solves, or never."
    )
    entropy: EntropyControl | None = Field(
        None, description="Keep the entropy in a band; a pair of numbers is the band."
    )
    covariance: Covariance | None = Field(None, description="Restrain the few tokens that change the entropy most.")
    asynchronous: Asynchronous | None = Field(None, description="Generate completions while training.")
    watch: Watch | None = Field(None, description="Warn when the reward rises and held-out answers do not improve.")
    shuffle_rewards: bool = Field(
        False, description="Permute the rewards over the batch, as a control without a signal."
    )
    sampling: Sampling = Field(Sampling(), description="How the policy samples.")

    @model_validator(mode="before")
    @classmethod
    def _algorithm(cls, data: Any) -> Any:
        """Written out here, so that plan, keys and the loop know single choices only."""
        if not isinstance(data, dict):
            return data
        node = dict(data)
        if node.get("algorithm") in ALGORITHMS:
            node = {**ALGORITHMS[node.pop("algorithm")], **node}
        if node.get("surrogate") in ("gspo", "gspo_token") and "clip" not in node:
            node["clip"] = ALGORITHMS["gspo"]["clip"]  # a token's range would be a thousand times too wide
        return node

    @field_validator("teacher", mode="before")
    @classmethod
    def _teacher(cls, value: Any) -> Any:
        return as_mapping(value, "from")

    @field_validator("kl", mode="before")
    @classmethod
    def _kl(cls, value: Any) -> Any:
        return {"weight": value} if isinstance(value, int | float) else value

    @field_validator("entropy", mode="before")
    @classmethod
    def _entropy(cls, value: Any) -> Any:
        return {"band": value} if isinstance(value, list | tuple) else value

    @field_validator("covariance", mode="before")
    @classmethod
    def _covariance(cls, value: Any) -> Any:
        return as_mapping(value, "kind")

    @field_validator("clip")
    @classmethod
    def _clip(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not (0 < value[0] < 1 and value[1] > 0):
            raise ValueError("clip is [low, high]: the ratio stays in 1-low..1+high, so 0 < low < 1 and high > 0")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Grpo:
        if not (self.prompts and self.rewards):
            raise ValueError("nothing to train on: set `prompts` and `rewards`, or `tasks`")
        if self.combine == "normalize_then_sum" and self.scale_advantages != "group":
            raise ValueError(
                "combine: normalize_then_sum scales by group and batch itself: say scale_advantages: group (an "
                "`algorithm` may have set another)"
            )
        if self.covariance is not None and self.covariance.kind == "kl" and self.minibatches == 1:
            raise ValueError("covariance: kl holds back steps after the first of a batch: set minibatches over 1")
        if self.combine == "normalize_then_sum" and self.kl.weight and self.kl.placed == "reward":
            raise ValueError("combine: normalize_then_sum has no one reward to take the KL from: use kl.placed: loss")
        if self.teacher is not None and self.dynamic_sampling is not None:
            raise ValueError(
                "a teacher gives every group a signal: set dynamic_sampling: null (an `algorithm` may have set it)"
            )
        if self.teacher is not None and self.sampling.temperature != 1:
            raise ValueError(
                "a teacher is scored at temperature 1, so the policy must sample at 1: set sampling.temperature: 1"
            )
        if self.dual_clip is not None and self.dual_clip <= 1 + self.clip[1]:
            raise ValueError(f"`dual_clip` must be greater than 1 + the upper `clip`: {1 + self.clip[1]:g}")
        if min(self.tau) <= 0:
            raise ValueError("`tau`: both temperatures must be greater than 0")
        return self

    def declare(self) -> Declaration:
        """The policy samples and learns; a teacher is held by the learner."""
        watch, max_tokens = self.watch, self.sampling.max_tokens
        watched = [
            Generation(
                model=self.model, sources=one.prompts, max_tokens=max_tokens, rewards=one.rewards or self.rewards
            )
            for one in ([watch] if watch else [])
        ]
        return Declaration(
            gives="model",
            inputs=(
                ModelInput(at=("model",), source=self.model, holder="learner"),
                *([ModelInput(at=("teacher",), source=self.teacher, holder="learner")] if self.teacher else ()),
                *source_inputs("prompts", self.prompts, "prompts"),
                *source_inputs("prompts", watch.prompts if watch else (), "questions", "watch"),
            ),
            rewards=(*reward_inputs(self.rewards), *reward_inputs((watch and watch.rewards) or (), "watch")),
            generations=(
                *watched,
                Generation(
                    model=self.model, sources=self.prompts, max_tokens=max_tokens, rewards=self.rewards,
                    group_size=self.group_size,
                ),
            ),
            actors=frozenset({"learner", "rollout"}),
            tokens=self.steps * self.prompts_per_step * self.group_size * max_tokens,
            training=self,
        )  # fmt: skip

    @field_validator("sampling")
    @classmethod
    def _whole_distribution(cls, value: Sampling) -> Sampling:
        if value.temperature == 0 or value.top_p < 1 or value.top_k:
            raise ValueError(
                "RL samples from the whole distribution: temperature must be greater than 0, top_p 1, top_k 0"
            )
        return value
