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

    weight: float = Field(0.0, ge=0, description="of the KL; 0: none")
    estimator: Literal["k1", "k2", "k3", "k3_plain"] = Field(
        "k3", description="in the loss; k3_plain is GRPO's first form, without the ratio"
    )
    placed: Literal["loss", "reward"] = Field(
        "loss", description="reward: k1 summed over the completion, taken from its reward"
    )
    refresh_every: int = Field(0, ge=0, description="steps after which the present policy is the reference; 0: never")


class TeacherUse(ModelSource):
    """A teacher whose log-probabilities join the advantage: on-policy distillation mixed into RL."""

    weight: float = Field(1.0, ge=0, description="of log teacher - log policy, a token")
    reward_weight: float = Field(1.0, ge=0, description="of the rewards' own advantage; 0: distillation alone")
    bound: float = Field(5.0, gt=0, description="the log-ratio is cut to +-this")


class ImportanceUse(Strict):
    """Correction for what the rollout engine sampled with against what the learner says of it."""

    mode: Literal["none", "token_tis", "sequence_tis", "token_mis", "sequence_mis", "geometric_mis"] = Field(
        "token_tis", description="tis truncates the weight at `cap`, mis drops what is outside floor..cap"
    )
    cap: float = Field(2.0, gt=0)
    floor: float = Field(0.0, ge=0)
    old: Literal["learner", "engine"] = Field(
        "learner",
        description="what the ratio compares with: the learner before the step, or the engine itself (no correction)",
    )
    drop_stale: float | None = Field(
        None, gt=0, description="drop bad answers whose mean log(engine / policy) is over this"
    )
    alarm: float = Field(0.01, gt=0, description="warn when the mismatch KL of a step is over this, nats a token")

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

    extra: float = Field(1.0, gt=0, description="most extra prompts a step, as a share of prompts_per_step")


class Difficulty(Strict):
    """Ask prompts less often that the policy always solves, or never."""

    easy: Share = Field(0.9, description="a pass rate from here on is easy")
    hard: Share | None = Field(None, description="a pass rate up to here is hard; none is, if not given")
    keep: float = Field(0.25, gt=0, le=1, description="chance that an easy or hard prompt is asked when its turn comes")


class EntropyControl(Strict):
    """Keep the entropy a token in a band: below it a bonus grows, above it the bonus shrinks and turns."""

    band: tuple[float, float] = Field(description="[low, high], nats a token")
    step: float = Field(0.001, gt=0, description="how much the weight moves a step")
    most: float = Field(0.02, gt=0, description="largest weight, either way")

    @field_validator("band")
    @classmethod
    def _band(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= value[0] < value[1]:
            raise ValueError("an entropy band is [low, high] with 0 <= low < high, in nats a token")
        return value


class Covariance(Strict):
    """Hold back the few tokens that move the entropy most (2505.22617)."""

    kind: Literal["clip", "kl"] = Field(description="clip: they give no gradient; kl: |log ratio| is a penalty")
    share: float = Field(2e-4, gt=0, le=1, description="of the tokens")
    band: tuple[float, float] = Field((1.0, 5.0), description="clip: covariances it draws from")
    weight: float = Field(1.0, gt=0, description="kl: of the penalty")


class Asynchronous(Strict):
    """Generate while training (AReaL, 2505.24298; PipelineRL, 2509.19128)."""

    ahead: int = Field(1, ge=1, le=8, description="batches that are generated while one is trained on")
    staleness: int = Field(
        2, ge=2, le=16, description="most steps between a group's first token and its training; long ones carry over"
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

    prompts: tuple[PromptSource, ...] = Field(min_length=1, description="the held-out questions")
    rewards: tuple[RewardUse, ...] | None = Field(None, description="the stage's own if not given")
    every: int = Field(10, ge=1, description="steps")
    rise: float = Field(0.1, gt=0, description="a rise of the reward by this much, with held-out flat, is suspicious")

    _sources = field_validator("prompts", mode="before")(StageBase._sources.__func__)  # type: ignore[attr-defined]

    @field_validator("rewards", mode="before")
    @classmethod
    def _own_rewards(cls, value: Any) -> Any:
        return None if value is None else StageBase._rewards(value)


class Grpo(TrainingStage):
    """Reinforcement learning with group-relative advantages (DeepSeekMath 2402.03300; DAPO 2503.14476)."""

    kind: Literal["grpo"]
    algorithm: Algorithm | None = Field(
        None, description="sets what isn't set here: surrogate, clip, aggregate, scale_advantages and the like"
    )
    prompts: tuple[PromptSource, ...] = Field(description="what the policy answers")
    rewards: tuple[RewardUse, ...] = Field(description="how completions are scored")
    tasks: tuple[TaskUse, ...] = Field((), description="more prompts, each with the rewards that judge it")
    prompts_per_step: int = Field(16, ge=1, description="prompts per step")
    group_size: int = Field(8, ge=2, description="completions per prompt, compared with each other")
    minibatches: int = Field(1, ge=1, description="optimizer steps a rollout batch (off-policy when over 1)")
    surrogate: Literal["clip", "gspo", "gspo_token", "cispo", "sapo"] = Field(
        "clip", description="the policy-gradient loss"
    )
    clip: tuple[float, float] = Field((0.2, 0.28), description="low and high; a higher high is DAPO's clip-higher")
    dual_clip: float | None = Field(None, gt=1, description="most that the ratio counts for where the advantage is < 0")
    cap: float = Field(5.0, gt=0, description="cispo: most that the ratio counts for")
    tau: tuple[float, float] = Field((1.0, 1.05), description="sapo: temperatures for advantages over and under 0")
    scale_advantages: Literal["group", "batch", "none"] = Field("group", description="divide by which std")
    aggregate: Literal["token", "sequence", "prompt", "constant"] = Field(
        "token",
        description="what counts the same: tokens (DAPO), completions (GRPO), prompts (ScaleRL); "
        "constant divides by completions x max_tokens (Dr. GRPO)",
    )
    kl: Kl = Field(Kl(), description="the KL to a reference; a number is its weight")
    teacher: TeacherUse | None = Field(None, description="a teacher whose log-probabilities join the advantage")
    importance: ImportanceUse = Field(
        ImportanceUse(), description="the correction for what the rollout engine sampled with"
    )
    combine: Literal["sum_then_normalize", "normalize_then_sum"] = Field(
        "sum_then_normalize",
        description="how several rewards become one advantage; the second is GDPO, which scales by group and batch",
    )
    mask_truncated: bool = Field(False, description="completions cut at max_tokens give no gradient (overlong filter)")
    dynamic_sampling: DynamicSampling | None = Field(None, description="replace groups without a signal")
    difficulty: Difficulty | None = Field(None, description="ask mastered or hopeless prompts less often")
    entropy: EntropyControl | None = Field(None, description="keep the entropy in a band; [low, high] is the band")
    covariance: Covariance | None = Field(None, description="hold back the tokens that move the entropy most")
    asynchronous: Asynchronous | None = Field(None, description="generate while training")
    watch: Watch | None = Field(None, description="held-out questions asked during training")
    shuffle_rewards: bool = Field(False, description="a control: rewards permuted over the batch carry no signal")
    sampling: Sampling = Field(Sampling(), description="how the policy samples")

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
            raise ValueError("there is nothing to train on: name `prompts` and `rewards`, or `tasks`")
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
                "a teacher has something to say of every group: say dynamic_sampling: null (an `algorithm` may have "
                "set it)"
            )
        if self.teacher is not None and self.sampling.temperature != 1:
            raise ValueError("a teacher is scored at temperature 1, and so must the policy be: sampling.temperature: 1")
        if self.dual_clip is not None and self.dual_clip <= 1 + self.clip[1]:
            raise ValueError(f"dual_clip bounds what `clip` lets through: over {1 + self.clip[1]:g}")
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
            raise ValueError("RL samples from the whole distribution: temperature over 0, top_p 1, top_k 0")
        return value
