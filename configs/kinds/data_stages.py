"""The stages that make data: `curate` and `sample`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from posttrain.configs.nodes.declaration import (
    Actor,
    Declaration,
    Generation,
    ModelInput,
    reward_inputs,
    source_inputs,
)
from posttrain.configs.nodes.inputs import Model, PromptSource, RewardUse, Sampling, as_mapping, judge_source
from posttrain.configs.nodes.judges import JudgeModel
from posttrain.configs.nodes.stage import StageBase
from posttrain.configs.nodes.strict import Strict
from posttrain.types import Mode


class Keep(Strict):
    """What `curate` keeps."""

    pass_rate: tuple[float, float] = Field(
        (0.0, 1.0), description="Lowest and highest pass rate of the queries that are kept, both inclusive."
    )

    @field_validator("pass_rate")
    @classmethod
    def _window(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= value[0] <= value[1] <= 1:
            raise ValueError("a pass-rate window is [low, high] with 0 <= low <= high <= 1")
        return value


class Decontaminate(Strict):
    """When a query is too near to one of `held_out`, or to the validation split."""

    ngram: int = Field(
        13,
        ge=3,
        description=(
            "A query is removed if it shares this many words in a row with a held-out item (Brown et al. 2020)."
        ),
    )
    at_most: float = Field(
        0.5,
        ge=0,
        le=1,
        description=(
            "A query is removed if it repeats more than this share of a held-out item's three-word sequences."
        ),
    )
    near: float = Field(
        0.75,
        ge=0.7,
        le=1,
        description="A query is removed at this MinHash similarity with a held-out item, numbers aside.",
    )


class Deduplicate(Strict):
    """When two queries are one; the first is kept."""

    near: float | None = Field(
        0.8,
        ge=0.7,
        le=1,
        description=("MinHash similarity from which two queries are duplicates; null removes exact duplicates only."),
    )
    ngram: int = Field(3, ge=1, description="Words per shingle of MinHash.")
    same_numbers: bool = Field(
        True,
        description=("Whether near duplicates must have the same numbers, since other numbers make another problem."),
    )


class WithoutThinking(Strict):
    """Queries that a model answers correctly without thinking teach no thinking (report, 4.1)."""

    model: Model | None = Field(None, description="The model that answers; default: the stage's model.")
    n: int = Field(2, ge=1, description="Completions per query.")
    mode: Literal["closed", "no_think"] = Field(
        "closed", description="How thinking is switched off: by the chat template (`closed`) or by the flag /no_think."
    )
    at_least: float = Field(
        1.0, gt=0, le=1, description="A query is removed if at least this share of its completions is right."
    )
    sampling: Sampling = Field(Sampling(), description="How the model samples.")

    @field_validator("model", mode="before")
    @classmethod
    def _model(cls, value: Any) -> Any:
        return as_mapping(value, "from")


class Domains(Strict):
    """How each query's domain is found: its own column, else words, else the judge."""

    column: str = Field("domain", description="Column that holds the domain, where a row has it.")
    words: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="Words that indicate a domain, as {domain: [words]}."
    )
    judge: tuple[str, ...] = Field((), description="Domains that the stage's judge chooses from.")
    most: int | Literal["even"] | None = Field(
        None, description="Most queries per domain; `even` takes the size of the smallest domain."
    )


RuleName = Literal["no_answer", "several_questions", "open_generation", "proof"]


class Curate(StageBase):
    """Prompts in; prompts with pass rates and domains, filtered, out (report, 4.1 and 4.2)."""

    kind: Literal["curate"] = Field(description="Selection of queries.")
    prompts: tuple[PromptSource, ...] = Field(description="Queries to select from.")
    validation: int = Field(0, ge=0, description="Number of queries to reserve first, as the split `validation`.")
    exclude: tuple[PromptSource, ...] = Field((), description="Prompts to leave out, such as those of the cold start.")
    rules: tuple[RuleName, ...] = Field(
        ("no_answer", "several_questions", "open_generation", "proof"),
        description="Rules that remove queries whose answers cannot be verified.",
    )
    judge: JudgeModel | None = Field(
        None, description="A language model that decides what can be verified, and chooses domains."
    )
    deduplicate: Deduplicate = Field(Deduplicate(), description="When two queries are duplicates; the first is kept.")
    held_out: tuple[PromptSource, ...] = Field(
        (), description="Evaluation sets; queries too similar to an item of them are removed."
    )
    decontaminate: Decontaminate = Field(Decontaminate(), description="When a query is too similar to a held-out item.")
    without_thinking: WithoutThinking | None = Field(
        None, description="Remove queries that a model answers without thinking."
    )
    n: int = Field(4, ge=1, description="Completions per query, from which the pass rate is computed.")
    keep: Keep = Field(Keep(), description="Which queries are kept.")
    domains: Domains = Field(Domains(), description="How each query's domain is found and balanced.")
    limit: int | None = Field(None, ge=1, description="Most queries to keep; the hardest are kept.")
    rewards: tuple[RewardUse, ...] = Field(
        (RewardUse(use="math"),), description="Rewards that judge the completions for the pass rate."
    )
    sampling: Sampling = Field(Sampling(), description="How the model samples.")

    @field_validator("judge", mode="before")
    @classmethod
    def _judge(cls, value: Any) -> Any:
        return as_mapping(value, "from")

    @model_validator(mode="after")
    def _has_models(self) -> Curate:
        if self.without_thinking is not None and (self.without_thinking.model or self.model) is None:
            raise ValueError("`without_thinking` asks a model: name one in it, or the stage's `model`")
        if self.domains.judge and self.judge is None:
            raise ValueError("`domains.judge` asks the stage's `judge`: name one")
        if len(self.domains.judge) == 1:
            raise ValueError("`domains.judge` names the domains to choose from: two or more")
        return self

    def declare(self) -> Declaration:
        """A model answers where the stage has one, for pass rates or for `without_thinking`."""
        answers = self.model is not None or self.without_thinking is not None
        return Declaration(
            gives="data",
            inputs=(
                *([ModelInput(at=("model",), source=self.model)] if self.model else ()),
                *source_inputs("prompts", self.prompts, "prompts"),
                *source_inputs("exclude", self.exclude, "comparison"),
                *source_inputs("held_out", self.held_out, "comparison"),
                *self._other_models(),
            ),
            rewards=reward_inputs(self.rewards),
            generations=(
                Generation(
                    model=self.model, sources=self.prompts, max_tokens=self.sampling.max_tokens,
                    rewards=self.rewards if answers else (), group_size=self.n,
                ),
            ),
            actors=frozenset({"rollout"} if answers else ()),
            endpoints=(self.judge,) if self.judge else (),
            sifts_rows=True,
            drops_unanswered="no_answer" in self.rules,
        )  # fmt: skip

    def _other_models(self) -> Iterator[ModelInput]:
        if self.without_thinking is not None and self.without_thinking.model is not None:
            yield ModelInput(at=("without_thinking", "model"), source=self.without_thinking.model)
        if self.judge is not None and self.judge.source is not None:
            yield ModelInput(at=("judge",), source=judge_source(self.judge))


class FilterUse(Strict):
    """A response filter by name; every other key is one of its parameters.

    >>> FilterUse.model_validate({"use": "repetition", "ngram": 4, "at_most": 0.3})
    """

    model_config = ConfigDict(extra="allow")

    use: str = Field(
        description=(
            "`correct`, `repetition`, `guesswork`, `consistent`, `language`, `similar`, `complete` or `checklist`."
        )
    )

    @property
    def params(self) -> dict[str, Any]:
        """What the recipe sets."""
        return dict(self.model_extra or {})


NO_MODEL = ("builtin:oracle", "builtin:given")
"""What answers in a `sample` stage without being a model."""


class Store(Strict):
    """What of the model's distribution is kept at every token of its responses; one of the two."""

    top_k: int = Field(
        0, ge=0, description="Store this many most likely ids per token with their log-probabilities, at 7 bytes each."
    )
    draws: int = Field(
        0,
        ge=0,
        le=63,
        description=(
            "Store this many ids per token drawn from the distribution, at 3 bytes per distinct id "
            "(2503.16870 uses 50)."
        ),
    )

    @model_validator(mode="after")
    def _one(self) -> Store:
        if bool(self.top_k) == bool(self.draws):
            raise ValueError("store: top_k: N or draws: N, one of them")
        return self


class SampleStage(StageBase):
    """A model's responses to prompts, verified, filtered and chosen (report, 4.1 and 4.3).

    Few samples are the default, as the report prefers: one response a query, and at most 5000 of them.
    """

    kind: Literal["sample"] = Field(description="Generation and selection of responses.")
    model: Model | None = Field(
        None,
        description=(
            "What answers: a stage, `base`, a folder or a Hub id. `builtin:oracle` writes out the rows' "
            "solutions; `builtin:given` takes the rows' own responses."
        ),
    )
    endpoint: JudgeModel | None = Field(
        None, description="An OpenAI-compatible endpoint that answers; replaces `model`."
    )
    prompts: tuple[PromptSource, ...] = Field(description="Prompts to answer.")
    n: int = Field(1, ge=1, description="Candidates per prompt.")
    take: int = Field(1, ge=1, description="Most candidates to keep per prompt.")
    pick: Literal["shortest", "first", "best"] = Field(
        "shortest", description="Which of the candidates that pass the filters are kept."
    )
    mode: Mode | Literal["mixed"] | None = Field(
        None,
        description=(
            "How the prompts ask for thinking; `mixed` draws a mode per prompt. Default: the prompts as they are."
        ),
    )
    filters: tuple[FilterUse, ...] = Field(
        (FilterUse(use="correct"),),
        description="Filters that remove responses: names, or mappings {use: NAME} with parameters.",
    )
    held_out: tuple[PromptSource, ...] = Field(
        (), description="Evaluation sets that the filter `similar` compares with."
    )
    rewards: tuple[RewardUse, ...] = Field(
        (RewardUse(use="math"),), description="Rewards that the filter `correct` reads."
    )
    sampling: Sampling = Field(Sampling(), description="How the model samples.")
    store: Store | None = Field(None, description="Keep the model's next-token distributions, for `distill`.")
    limit: int | None = Field(5000, ge=1, description="Most responses to keep; null keeps all.")
    reviewed: tuple[PromptSource, ...] = Field((), description="A review.jsonl of this stage that a person filled in.")

    @field_validator("filters", mode="before")
    @classmethod
    def _filters(cls, value: Any) -> Any:
        values = value if isinstance(value, list | tuple) else [value]
        return [as_mapping(v, "use") for v in values]

    @model_validator(mode="after")
    def _fits(self) -> SampleStage:
        if (self.model is None) == (self.endpoint is None):
            raise ValueError("who answers? name `model` or `endpoint: {endpoint: URL, model: NAME}`, one of the two")
        if self.endpoint is not None and self.endpoint.endpoint is None:
            raise ValueError("`endpoint` is {endpoint: URL, model: NAME}; what the run holds is named in `model`")
        if self.store is not None and (self.model is None or self.model.source in NO_MODEL):
            raise ValueError(
                "`store` keeps the distributions of a model of the run: neither endpoint nor oracle has any"
            )
        if any(use.use == "similar" for use in self.filters) and not self.held_out:
            raise ValueError("the filter `similar` compares with `held_out`: name the sets kept for evaluation")
        return self

    def declare(self) -> Declaration:
        """Rewards are asked for the filter `correct` alone; without it, scores decide nothing."""
        judged = any(use.use == "correct" for use in self.filters)
        answers = self.model is not None and self.model.source not in NO_MODEL
        actors: set[Actor] = {"rollout"} if answers else set()
        if self.store is not None:
            actors.add("learner")
        known = all(source.n for source in self.prompts)
        return Declaration(
            gives="data",
            inputs=(
                *([ModelInput(at=("model",), source=self.model)] if self.model else ()),
                *source_inputs("prompts", self.prompts, "prompts"),
                *source_inputs("held_out", self.held_out, "comparison"),
                *source_inputs("reviewed", self.reviewed, "material"),
            ),
            rewards=reward_inputs(self.rewards),
            generations=(
                Generation(
                    model=self.model, sources=self.prompts, max_tokens=self.sampling.max_tokens,
                    rewards=self.rewards if judged else (), group_size=self.n,
                ),
            ),
            actors=frozenset(actors),
            tokens=sum(source.n or 0 for source in self.prompts) * self.n * self.sampling.max_tokens if known else None,
            filters=self.filters,
            endpoints=(self.endpoint,) if self.endpoint else (),
            mode=self.mode,
            gives_responses=True,
        )  # fmt: skip
