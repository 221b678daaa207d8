"""One sequence as it is being decoded, the same for every engine: what it has, what its budget forces, when it ends."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from posttrain.stages.models.chat import ChatFormat
from posttrain.stages.rollout.engines.thinking_budget import ThinkingBudget
from posttrain.types import Completion, FinishReason, Group, Prompt, SamplingParams, Source


@dataclass(kw_only=True)
class DecodedSequence:
    """A completion under way."""

    group: int
    index: int
    prompt_ids: NDArray[np.int64]
    most: int
    """Tokens that it may have."""
    budget: ThinkingBudget
    random: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    """One uniform a token, where the engine draws by itself."""
    ids: list[int] = field(default_factory=list)
    sources: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    forced: list[int] = field(default_factory=list)
    """What of an injection is still to come."""
    finish: FinishReason | None = None

    def add(self, token: int, logprob: float, source: Source, version: int, stops: Collection[int]) -> None:
        """Its next token."""
        self.ids.append(token)
        self.sources.append(source)
        self.logprobs.append(logprob)
        self.versions.append(version)
        if token in stops:
            self.finish = "stop"
        elif len(self.ids) >= self.most:
            self.finish = "length"

    def over_budget(self) -> bool:
        """Whether the next token is forced; looks at every token once, so ask after each."""
        if not self.forced and self.budget.budget is not None:
            self.forced = self.budget.inject(self.ids)
        return bool(self.forced)

    def take_up(self, begun: Completion) -> None:
        """Go on from what an interrupted generation had."""
        self.ids, self.sources = begun.token_ids.tolist(), begun.sources.tolist()
        self.logprobs, self.versions = begun.logprobs.tolist(), begun.versions.tolist()
        self.finish = None if begun.finish_reason == "abort" else begun.finish_reason
        self.forced = self.budget.resume(self.ids, self.sources)


def encode(chat: ChatFormat, prompt: Prompt) -> NDArray[np.int64]:
    """The ids that a completion of the prompt continues."""
    turn = prompt.continues
    return chat.prompt_ids(prompt) if turn is None else chat.turn_ids(turn, prompt.mode)


def room(prompt: Prompt, ids: NDArray[np.int64], params: SamplingParams) -> int:
    """Tokens that a completion of the prompt, `ids` when encoded, may have."""
    turn = prompt.continues
    return params.max_tokens if turn is None else min(params.max_tokens, turn.room - (len(ids) - len(turn.ids)))


def unspoken(chat: ChatFormat, prompt: Prompt, ids: NDArray[np.int64], n: int) -> Group:
    """What there is of a turn for which no token is left."""
    budget = ThinkingBudget.watch(chat, None, ids)
    rows = [DecodedSequence(group=0, index=i, prompt_ids=ids, most=0, budget=budget, finish="length") for i in range(n)]
    return as_group(chat, prompt, rows)


def as_group(chat: ChatFormat, prompt: Prompt, rows: Sequence[DecodedSequence]) -> Group:
    """The rows of a prompt as they are; what isn't finished ends with `abort`."""
    completions = tuple(
        Completion(
            prompt_id=prompt.id, index=row.index, prompt_ids=row.prompt_ids,
            token_ids=np.array(row.ids, np.int64), text=chat.decode(row.ids),
            sources=np.array(row.sources, np.int8), logprobs=np.array(row.logprobs, np.float32),
            versions=np.array(row.versions, np.int32), finish_reason=row.finish or "abort",
        )
        for row in sorted(rows, key=lambda r: r.index)
    )  # fmt: skip
    return Group(prompt=prompt, completions=completions)
