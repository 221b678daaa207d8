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
    """How a suite asks. Without `temperature`, the report's settings of each mode (4.6) stand in."""

    max_tokens: int = Field(64, ge=1, description="most tokens a completion may have, thinking included")
    temperature: float | None = Field(None, ge=0, description="0 is greedy; the mode's setting if not given")
    top_p: float | None = Field(
        None,
        gt=0,
        le=1,
        description="the smallest share of probability that is sampled from; the mode's setting if not given",
    )
    top_k: int | None = Field(None, ge=0, description="0 cuts nothing")
    thinking_budget: int | None = Field(None, ge=0, description="most tokens inside the think block")


class Suite(Strict):
    """One benchmark: prompts, how they are asked, how they are judged."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$", description="what results and thresholds call it")
    measure: Literal["reward", "mode_following", "budget"] = Field(
        "reward",
        description="mode_following: multi-turn dialogues with flags; budget: accuracy by thinking budget",
    )
    prompts: tuple[PromptSource, ...] = Field(description="the questions")
    rewards: tuple[RewardUse, ...] = Field((RewardUse(use="math"),), description="how answers are scored")
    tasks: tuple[TaskUse, ...] = Field((), description="more prompts, held out, each with the rewards that judge it")
    modes: tuple[Mode, ...] = Field(("default",), description="the modes that every question is asked in")
    k: int = Field(1, ge=1, description="samples a question; accuracy is their mean, avg@k")
    pass_at: tuple[int, ...] = Field((), description="pass@k for each of these, up to `k`; [k] if not given and k > 1")
    budgets: tuple[int, ...] = Field((0, 8, 16, 32), description="thinking budgets, tokens")
    sampling: SuiteSampling = Field(SuiteSampling(), description="how the model samples")

    _sources = field_validator("prompts", mode="before")(StageBase._sources.__func__)  # type: ignore[attr-defined]
    _rewards = field_validator("rewards", mode="before")(StageBase._rewards.__func__)  # type: ignore[attr-defined]

    @model_validator(mode="after")
    def _enough_samples(self) -> Self:
        wrong = [k for k in self.pass_at if not 1 <= k <= self.k]
        if wrong:
            raise ValueError(f"pass@{wrong[0]} needs as many samples a question: set `k` to {max(wrong)} or more")
        return self


class Evaluate(StageBase):
    """A table: suite x mode, with bootstrap intervals by question."""

    kind: Literal["evaluate"]
    model: Model
    suites: tuple[Suite, ...] = Field(description="the suites that the model is asked")

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
    """Suites that are run after the named stages, as stages of their own (`eval-STAGE`)."""

    suites: tuple[Suite, ...] = Field((), description="the suites")
    after: tuple[str, ...] = Field((), description="stages, or `base`")
    only: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="stage: the suites to run after it; all if not named"
    )


class Threshold(Strict):
    """A check on evaluation results, printed in the table; a failed one makes the run exit 1."""

    check: str = Field(description="arithmetic over STAGE:SUITE:MODE:METRIC, e.g. `rl:sums:think:accuracy >= 0.9`")
    about: str = Field("", description="a note that is printed with the result")
