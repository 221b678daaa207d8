"""Evaluation: suites, where they are run, and what they must show."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from posttrain.configs.nodes.declaration import Declaration, Generation, ModelInput, reward_inputs, source_inputs
from posttrain.configs.nodes.inputs import Model, PromptSource, RewardUse, TaskUse
from posttrain.configs.nodes.stage import StageBase
from posttrain.configs.nodes.strict import Strict
from posttrain.types import Mode


class SuiteSampling(Strict):
    """How a suite samples. Without `temperature`, the report's settings for the mode (4.6) are used."""

    max_tokens: int = Field(64, ge=1, description="Most tokens per completion, thinking included.")
    temperature: float | None = Field(
        None, ge=0, description="Sampling temperature; 0 is greedy. Default: the report's setting for the mode."
    )
    top_p: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Sample from the most likely tokens with this total probability. Default: the report's setting for "
        "the mode; 1 if `temperature` is set.",
    )
    top_k: int | None = Field(
        None,
        ge=0,
        description="Sample from this many most likely tokens; 0 keeps all. Default: the report's setting for the "
        "mode; 0 if `temperature` is set.",
    )
    thinking_budget: int | None = Field(
        None, ge=0, description="Most tokens inside the think block; then a text that ends the thinking is inserted."
    )


class Suite(Strict):
    """One benchmark: prompts, how they are asked, how they are judged."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$", description="Name of the suite in results and thresholds.")
    measure: Literal["reward", "mode_following", "budget"] = Field(
        "reward",
        description=(
            "What is measured. `reward`: the mean reward. `mode_following`: dialogues with thinking "
            "flags. `budget`: accuracy for each thinking budget."
        ),
    )
    prompts: tuple[PromptSource, ...] = Field(description="Held-out prompts.")
    rewards: tuple[RewardUse, ...] = Field((RewardUse(use="math"),), description="Rewards that judge the answers.")
    tasks: tuple[TaskUse, ...] = Field(
        (), description="Tasks whose held-out prompts are added, each with the rewards that judge it."
    )
    modes: tuple[Mode, ...] = Field(("default",), description="Modes in which every prompt is asked.")
    k: int = Field(1, ge=1, description="Completions per prompt; accuracy is their mean (avg@k).")
    pass_at: tuple[int, ...] = Field(
        (),
        description=(
            "Values of k for pass@k, each at most the suite's `k`. Default: the suite's `k` alone, if it "
            "is greater than 1."
        ),
    )
    budgets: tuple[int, ...] = Field((0, 8, 16, 32), description="Thinking budgets to measure, in tokens.")
    sampling: SuiteSampling = Field(SuiteSampling(), description="How the model samples.")

    _sources = field_validator("prompts", mode="before")(StageBase._sources.__func__)  # type: ignore[attr-defined]
    _rewards = field_validator("rewards", mode="before")(StageBase._rewards.__func__)  # type: ignore[attr-defined]

    @model_validator(mode="after")
    def _enough_samples(self) -> Self:
        wrong = [k for k in self.pass_at if not 1 <= k <= self.k]
        if wrong:
            raise ValueError(f"pass@{wrong[0]} needs more completions per question: set `k` to {max(wrong)} or more")
        return self


class Evaluate(StageBase):
    """A table: suite x mode, with bootstrap intervals by question."""

    kind: Literal["evaluate"] = Field(description="Evaluation of one model.")
    model: Model
    suites: tuple[Suite, ...] = Field(description="Suites to run.")

    def declare(self) -> Declaration:
        """The model answers every question of every suite; turns of a dialogue share a context."""
        suites = list(enumerate(self.suites))
        return Declaration(
            gives="table",
            inputs=(
                ModelInput(at=("model",), source=self.model),
                *(
                    found
                    for number, suite in suites
                    for found in source_inputs("prompts", suite.prompts, "questions", "suites", number)
                ),
            ),
            rewards=tuple(
                found for number, suite in suites for found in reward_inputs(suite.rewards, "suites", number)
            ),
            suites=self.suites,
            generations=tuple(
                Generation(
                    model=self.model, sources=suite.prompts, max_tokens=suite.sampling.max_tokens,
                    rewards=suite.rewards, group_size=suite.k, all_rows=True,
                )
                for suite in self.suites
                if suite.measure != "mode_following"
            ),
            actors=frozenset({"rollout"}),
            tokens=self._tokens(),
        )  # fmt: skip

    def _tokens(self) -> int | None:
        counts = [
            source.n * suite.k * len(suite.modes) * suite.sampling.max_tokens if source.n else None
            for suite in self.suites
            for source in suite.prompts
        ]
        return None if None in counts else sum(count or 0 for count in counts)


class AutoEvaluate(Strict):
    """Suites that run after the named stages, as separate stages named `eval-STAGE`."""

    suites: tuple[Suite, ...] = Field((), description="Suites that evaluations run.")
    after: tuple[str, ...] = Field((), description="Stages whose models are evaluated; `base` is the base model.")
    only: dict[str, tuple[str, ...]] = Field(
        default_factory=dict,
        description=("Suites to run for a stage, as {stage: [suites]}. Stages that are not named run all suites."),
    )


class Threshold(Strict):
    """A check on evaluation results, printed in the table; a failed one makes the run exit 1."""

    check: str = Field(
        description=("A comparison of numbers STAGE:SUITE:MODE:METRIC, such as `rl:sums:think:accuracy >= 0.9`.")
    )
    about: str = Field("", description="What the threshold shows, in words.")
