"""What a stage declares of itself: plans, checks, cards and reports ask this record, and never the type of the stage.

So a kind of stage that a user brings gets the same plan, preflight, ledger and report as the packaged ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from posttrain.configs.nodes.inputs import ModelSource, PromptSource, RewardUse, judge_source
from posttrain.configs.nodes.judges import JudgeModel
from posttrain.configs.nodes.strict import Path_
from posttrain.types import Mode

if TYPE_CHECKING:
    from posttrain.configs.kinds.data_stages import FilterUse
    from posttrain.configs.kinds.evaluation import Suite
    from posttrain.configs.kinds.training import TrainingStage

Gives = Literal["model", "data", "table"]
Actor = Literal["learner", "rollout", "teacher"]
"""A group of actors, by its name in `cluster`."""

RowForm = Literal["prompts", "conversations", "documents"]
"""What a row must have: something to ask; a response too; or only text."""

Holder = Literal["learner", "engine", "classifier"]
"""What computes a model: the learner, as a policy or a teacher; the rollout engine; or a reward's own process."""

Role = Literal["prompts", "training", "material", "questions", "validation", "comparison"]
"""What a source is for:

prompts: a model answers them, or they are passed on. training: the stage learns its rows. material: what other stages
or people made of such rows (stored distributions, reviews). questions: held-out prompts whose answers are measured.
validation: held-out rows whose loss is measured. comparison: what the data must not repeat.
"""


@dataclass(frozen=True, kw_only=True)
class ModelInput:
    """A model that a stage names.

    >>> ModelInput(at=("model",), source=ModelSource.model_validate({"from": "base"}), holder="learner")
    """

    at: Path_
    """Where the stage's node names it."""
    source: ModelSource
    holder: Holder = "engine"


@dataclass(frozen=True, kw_only=True)
class SourceInput:
    """A source of rows that a stage names.

    >>> SourceInput(at=("prompts", 0), source=PromptSource.model_validate({"from": "rows.jsonl"}), role="prompts")
    """

    at: Path_
    source: PromptSource
    role: Role
    form: RowForm = "prompts"


Input = ModelInput | SourceInput


@dataclass(frozen=True, kw_only=True)
class RewardInput:
    """A reward that a stage uses."""

    at: Path_
    use: RewardUse

    def models(self) -> Iterator[ModelInput]:
        """The models of the run, and the classifiers, that the reward asks."""
        if self.use.judge is not None and self.use.judge.source is not None:
            yield ModelInput(at=(*self.at, "judge"), source=judge_source(self.use.judge))
        if self.use.model is not None:
            yield ModelInput(at=(*self.at, "model"), source=self.use.model, holder="classifier")


@dataclass(frozen=True, kw_only=True)
class Generation:
    """Completions that a stage asks for: of which prompts, how long, and which rewards judge them."""

    model: ModelSource | None
    """None: an endpoint answers, or no model is asked."""
    sources: tuple[PromptSource, ...]
    max_tokens: int
    rewards: tuple[RewardUse, ...] = ()
    """Those whose scores decide something."""
    group_size: int = 1
    """Completions per prompt, which a reward gets in one call."""
    all_rows: bool = False
    """A prompt that can't be answered is an error, even where malformed rows may be skipped."""


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """Everything that is asked about a stage before and after it runs.

    >>> Declaration(gives="data", inputs=source_inputs("prompts", spec.prompts, "prompts"), sifts_rows=True)
    """

    gives: Gives
    inputs: tuple[Input, ...] = ()
    """The models and sources that it names, those of its rewards aside."""
    rewards: tuple[RewardInput, ...] = ()
    suites: tuple[Suite, ...] = ()
    """What it evaluates."""
    generations: tuple[Generation, ...] = ()
    actors: frozenset[Actor] = frozenset()
    """The actors that it takes."""
    tokens: int | None = None
    """The most tokens that it trains on or generates; None if that isn't known before it runs."""
    training: TrainingStage | None = None
    """The stage itself, if it trains a model."""
    filters: tuple[FilterUse, ...] = ()
    endpoints: tuple[JudgeModel, ...] = ()
    """The language models that the stage itself asks, wherever they are."""
    mode: Mode | Literal["mixed"] | None = None
    """The mode of its prompts, where it sets one for all."""
    sifts_rows: bool = False
    """It drops rows that can't be asked or judged, and counts them; sources may have millions of rows."""
    drops_unanswered: bool = False
    """It drops rows that lack what every reward reads, with the reason."""
    gives_responses: bool = False
    """The rows that it leaves have responses, which the next stage can train on."""
    rendering: str = ""
    """The module that makes training samples of its rows, by `long_rows` and `shown_rows`; empty: it makes none."""

    @property
    def all_inputs(self) -> tuple[Input, ...]:
        """Every model and source that it names, those of its rewards too."""
        return (*self.inputs, *(model for reward in self.rewards for model in reward.models()))

    @property
    def models(self) -> tuple[ModelInput, ...]:
        """Every model that it names."""
        return tuple(found for found in self.all_inputs if isinstance(found, ModelInput))

    @property
    def sources(self) -> tuple[SourceInput, ...]:
        """Every source of rows that it names."""
        return tuple(found for found in self.inputs if isinstance(found, SourceInput))


def source_inputs(
    field: str, sources: tuple[PromptSource, ...], role: Role, *inside: str | int, form: RowForm = "prompts"
) -> tuple[SourceInput, ...]:
    """The sources of the list `field` of a stage's node, or of the node at `inside` in it."""
    return tuple(
        SourceInput(at=(*inside, field, number), source=source, role=role, form=form)
        for number, source in enumerate(sources)
    )


def reward_inputs(uses: tuple[RewardUse, ...], *inside: str | int) -> tuple[RewardInput, ...]:
    """The rewards of the list `rewards` of a stage's node, or of the node at `inside` in it."""
    return tuple(RewardInput(at=(*inside, "rewards", number), use=use) for number, use in enumerate(uses))
