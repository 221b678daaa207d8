"""What rewards and their callers agree on. Nothing of this room is imported: every file of it may read it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from posttrain.configs.schema import JudgeModel, ModelSource
from posttrain.sandbox.jobs import Job, Verdict
from posttrain.types import Message

Needs = Literal["nothing", "worker", "judge", "math", "chat", "reward_model"]
"""What a built-in runs in or is handed: the confined room of our own bounded code (`nothing`); a fresh confined room
per completion, for what gives the text to another library (`worker`); a sandbox (`judge=`); the room of our own code,
and a fresh one for symbolic mathematics (`symbolic=`); a language model to ask (`chat=`); a sequence classifier that
scores (`reward_model=`)."""


@dataclass(frozen=True)
class RowError:
    """A row that couldn't be judged, through no fault of the completion: an infra error, never 0."""

    detail: str
    source: Literal["row", "call", "unreached"] = "row"
    """What failed: the row can't be judged; the call that judged it raised, ran too long or died; or there was no time
    left to judge it."""


Value = float | None | RowError
"""What a reward says of a row: a number, not applicable, or why it can't be judged."""


class JudgeClient(Protocol):
    """Whatever runs code: `sandbox.pool.SandboxPool`, `LocalJudgePool`, or a stand-in."""

    def judge(self, jobs: Sequence[Job]) -> list[Verdict]:
        """One verdict a job, in order."""
        ...


@runtime_checkable
class CountingJudge(Protocol):
    """Who counts what became of its jobs: a sandbox, or a host of judges."""

    def metrics(self) -> dict[str, float]:
        """Counts since the last call: see `sandbox.counters`, `rewards.endpoint`."""
        ...


Conversation = Sequence[Message]
"""Chat turns: what a model is asked, or what a reward model scores."""


class ChatClient(Protocol):
    """A language model that a reward asks: by an endpoint, held by rollout workers, or a stand-in. Thread-safe."""

    def ask(self, conversations: Sequence[Conversation]) -> list[str | RowError]:
        """One answer a conversation, in order; an error where there is none, or it was cut.

        Bounded in time by the reward's `timeout`. Raises RewardError where no question can be answered (a wrong key,
        no such model), since the next batch would fail alike.
        """
        ...


class RewardModelClient(Protocol):
    """A sequence classifier that gives a conversation one number. Thread-safe."""

    def score(self, conversations: Sequence[Conversation]) -> list[float | RowError]:
        """One number a conversation, in order; as `ChatClient.ask` otherwise."""
        ...


class ModelHost(Protocol):
    """Gives rewards the models they ask; two rewards that name one model share it. `close` frees what it holds."""

    def chat(self, judge: JudgeModel, timeout_s: float) -> ChatClient:
        """The judge, each `ask` bounded by `timeout_s`. Raises InputError where this host can't hold it."""
        ...

    def reward_model(self, model: ModelSource, timeout_s: float) -> RewardModelClient:
        """The classifier, each `score` bounded by `timeout_s`. Raises InputError where this host can't hold it."""
        ...

    def close(self) -> None: ...


Kind = Literal["rule", "judge", "model"]
"""How it scores, the report's three kinds (Qwen3, 4.4): a rule; a judge, a language model that is asked, with or
without a reference; a scalar reward model."""

HANDED = frozenset({"judge", "symbolic", "chat", "reward_model"})
"""Keywords that a built-in's member hands it, besides columns and parameters."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A row with a completion, of which it is known what a reward must say.

    >>> Case(completion="Paris.", columns={"answer": "Paris"})
    """

    completion: str
    """The whole of it, with its think block where there is one."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    prompt: str | Sequence[Message] = "?"
    """The text of a single user turn, or messages."""
    params: Mapping[str, Any] = field(default_factory=dict)

    @property
    def messages(self) -> tuple[Message, ...]:
        """The prompt as chat turns."""
        return ({"role": "user", "content": self.prompt},) if isinstance(self.prompt, str) else tuple(self.prompt)


@dataclass(frozen=True, kw_only=True)
class BuiltinReward:
    """A reward that a recipe can name plainly.

    >>> BuiltinReward(
    ...     function=exact,
    ...     columns=("answer",),
    ...     doc="equals the column `answer`",
    ...     gold=Case(completion="Paris.", columns={"answer": "Paris"}),
    ...     adversarial=Case(completion="Paris or Rome", columns={"answer": "Paris"}),
    ... )
    """

    function: Callable[..., Sequence[float | RowError | None]]
    doc: str
    gold: Case
    """It scores `full`."""
    adversarial: Case
    """What a policy would write to be paid without being right: it scores less than `full`."""
    full: float = 1.0
    kind: Kind = "rule"
    columns: tuple[str, ...] = ()
    """Columns that a row must have."""
    optional: tuple[str, ...] = ()
    """Columns it reads where a row has them. It is passed no others: a column could be called like a parameter."""
    either: tuple[str, ...] = ()
    """Those of `optional` that a parameter may set for all rows."""
    params: tuple[str, ...] = ()
    """Parameters it can't do without; all its parameters are keyword-only arguments of the function."""
    sees: Literal["answer", "completion"] = "answer"
    needs: Needs = "nothing"
    check: Callable[[Mapping[str, Any]], str | None] | None = None
    """What is wrong with a row's columns, or None: called before anything starts."""


def judging_nothing(
    function: Callable[..., Sequence[float | RowError | None]], *names: str
) -> Callable[[Mapping[str, Any]], str | None]:
    """A `check` for a reward that reads a row's columns before it looks at the answer: it judges an empty one."""

    def check(columns: Mapping[str, Any]) -> str | None:
        (value,) = function([()], [""], **{name: [columns.get(name)] for name in names})
        return value.detail if isinstance(value, RowError) else None

    return check


def parameters(reward: BuiltinReward) -> dict[str, inspect.Parameter]:
    """What `params` may set: the keyword-only arguments of the function that are neither columns nor handed to it."""
    others = {*reward.columns, *reward.optional, *HANDED} - {*reward.either}
    arguments = inspect.signature(reward.function, eval_str=True).parameters
    return {n: p for n, p in arguments.items() if p.kind is p.KEYWORD_ONLY and n not in others}


def call_arguments(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Rows of columns as columns of rows; None where a row lacks one."""
    names = dict.fromkeys(name for row in rows for name in row if name not in ("prompts", "completions"))
    return {name: [row.get(name) for row in rows] for name in names}
