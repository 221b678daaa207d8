"""The vocabulary: what flows between the rooms, named once. All frozen; arrays are read-only by convention.

Prompt --rollout--> Completion --rewards--> Score --advantages--> Sample --learner--> metrics
                                                                             stage --> Artifact
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Message = Mapping[str, Any]
"""One chat turn: {"role": "user", "content": "2+2?"}; assistants may have reasoning_content and tool_calls."""

Row = dict[str, Any]
"""A row of a data set: {"prompt": "2+2?", "answer": "4"}."""

Mode = Literal["default", "think", "no_think", "closed"]
"""How a prompt asks for thinking: `default` no flag (the model thinks), `think` and `no_think` the soft
switches /think and /no_think in the last user turn, `closed` the hard switch (enable_thinking=False: an
empty think block is prefilled)."""

FinishReason = Literal["stop", "length", "turns", "abort"]
"""Why a completion ended: by itself, at its token limit, at its limit of turns with an environment, or not at all."""
ScoreStatus = Literal["ok", "not_applicable", "infra_error"]


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A question with what is needed to judge an answer to it.

    >>> Prompt(id="a1", messages=({"role": "user", "content": "2+2?"},), columns={"answer": "4"}, task="math")
    """

    id: str
    messages: tuple[Message, ...]
    mode: Mode = "default"
    task: str = ""
    domain: str = ""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """What rewards read: answer, tests, ...; and `tools`, JSON schemas that the chat template shows the model."""
    environment: str = ""
    """The environment that answers the model's tool calls, as the JSON of the recipe's node; empty if there is none."""
    continues: Turn | None = None
    """Where set, a later turn of an episode: the text before it is continued unchanged, and not rendered again."""
    begun: tuple[Completion, ...] = ()
    """Where set, what an interrupted generation has of the group; those that ended with `abort` are continued."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What an episode's next assistant turn continues.

    >>> Turn(ids=np.array([1, 9, 4, 2]), results=("28",), room=96)
    """

    ids: NDArray[np.int64]
    """Everything so far, ending with an assistant turn's end of turn."""
    results: tuple[str, ...]
    """What the tools said since, one text a call."""
    room: int
    """Tokens that may follow `ids`, those of the results among them."""


class Source(IntEnum):
    """Where a completion token came from. Only SAMPLED tokens enter ratios, advantages and divergences."""

    SAMPLED = 0
    INJECTED = 1  # the early-stop text of a thinking budget
    TOOL = 2


@dataclass(frozen=True, kw_only=True)
class Completion:
    """What a policy answered: ids as sampled, never re-encoded. The four arrays have one entry a token.

    >>> Completion(prompt_id="a1", index=0, prompt_ids=np.array([1, 9]), token_ids=np.array([4, 2]), text="4",
    ...            sources=np.zeros(2, np.int8), logprobs=np.array([-0.1, 0.0]), versions=np.zeros(2, np.int32),
    ...            finish_reason="stop")
    """

    prompt_id: str
    index: int
    """Which of the prompt's group this is: 0 <= index < group size."""
    prompt_ids: NDArray[np.int64]
    token_ids: NDArray[np.int64]
    text: str
    """The decoded tokens with think and tool marks, without the end-of-turn token."""
    sources: NDArray[np.int8]
    """A `Source` a token."""
    logprobs: NDArray[np.float32]
    """Nats, at the sampling temperature, before top-p and top-k cut (vLLM: after it); 0 where not sampled."""
    versions: NDArray[np.int32]
    """The policy version that made each token."""
    finish_reason: FinishReason
    turns: tuple[Message, ...] = ()
    """Of an episode with an environment: assistant turns, as sampled, and tool turns; else empty."""
    outcome: Mapping[str, Any] = field(default_factory=dict)
    """Columns that an environment adds for the rewards of this completion."""
    failure: str = ""
    """What kept the environment from answering, through no fault of the policy: an infra error, never scored."""

    @classmethod
    def of_text(
        cls, prompt_id: str, text: str, *, index: int = 0, finish_reason: FinishReason = "stop", failure: str = ""
    ) -> Completion:
        """A text that no policy of the run sampled: it has no tokens.

        >>> Completion.of_text("a1", "4").spoken
        0
        """
        ids, logprobs = np.zeros(0, np.int64), np.zeros(0, np.float32)
        return cls(
            prompt_id=prompt_id, index=index, prompt_ids=ids, token_ids=ids, text=text, sources=np.zeros(0, np.int8),
            logprobs=logprobs, versions=np.zeros(0, np.int32), finish_reason=finish_reason, failure=failure,
        )  # fmt: skip

    @property
    def loss_mask(self) -> NDArray[np.float32]:
        """1 where the policy sampled the token itself, 0 elsewhere; shape [tokens]."""
        return (self.sources == Source.SAMPLED).astype(np.float32)

    @property
    def spoken(self) -> int:
        """How many of its tokens aren't a tool's."""
        return int((self.sources != Source.TOOL).sum())

    @property
    def said(self) -> str:
        """All that the policy itself said."""
        return "\n".join(str(m["content"]) for m in self.turns if m["role"] == "assistant") or self.text

    @property
    def last_turn(self) -> str:
        """The text of the last assistant turn: what is judged, and read, as the answer."""
        spoken = [m["content"] for m in self.turns if m["role"] == "assistant"]
        return str(spoken[-1]) if spoken else self.text


@dataclass(frozen=True, kw_only=True)
class Group:
    """All completions of one prompt, handed on as soon as the last of them is done."""

    prompt: Prompt
    completions: tuple[Completion, ...]


@dataclass(frozen=True, kw_only=True)
class Score:
    """The verdict on one completion. `value` is None unless status is ok: a failure is never scored 0.

    >>> Score(value=1.0, parts={"math": 1.0, "format": 1.0}, status="ok")
    """

    value: float | None
    parts: Mapping[str, float | None] = field(default_factory=dict)
    """What each reward gave, gates too."""
    status: ScoreStatus = "ok"
    detail: str = ""
    terms: Mapping[str, float] = field(default_factory=dict)
    """Where status is ok: each reward that counts, gates not among them; all 0 behind a closed gate. `value` is their
    weighted sum."""
    logged: Mapping[str, str] = field(default_factory=dict)
    """What rewards gave to `log_extra` for this row, as text, by column."""


@dataclass(frozen=True, kw_only=True)
class ScoredGroup:
    """A group and a score for each of its completions."""

    group: Group
    scores: tuple[Score, ...]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One training sequence. Position t's fields speak of *predicting* ids[t] from ids[:t]; entry 0 is unused.

    SFT, RL and distillation differ only in where samples come from and which fields the loss reads.

    >>> Sample(ids=np.array([5, 6, 7]), loss_mask=np.array([0, 0, 1]), weight=1.0)
    """

    ids: NDArray[np.int64]
    loss_mask: NDArray[np.float32]
    """1 where the token is a target, 0 elsewhere; shape [tokens]."""
    weight: float = 1.0
    advantage: float = 0.0
    token_advantages: NDArray[np.float32] | None = None
    """What a token has beside the sequence's advantage, shape [tokens]; added to it."""
    engine_logprobs: NDArray[np.float32] | None = None
    """log mu(ids[t]) in nats, shape [tokens]: what the rollout engine sampled with."""
    old_logprobs: NDArray[np.float32] | None = None
    """log pi_old(ids[t]) in nats, shape [tokens]: the learner's before the step; None where that is the present one."""
    penalties: NDArray[np.float32] | None = None
    """Weight of |log pi - log pi_old| in the loss, shape [tokens] (KL-Cov)."""
    reference_logprobs: NDArray[np.float32] | None = None
    teacher: int = 0
    """Which of the stage's teachers it is compared with."""
    teacher_ids: NDArray[np.int32] | None = None
    """Stored targets of each token, shape [tokens, k]: ids that the teacher finds likely, or drew."""
    teacher_values: NDArray[np.float32] | None = None
    """Their log-probabilities, or their shares of the draws; -inf where a token has fewer."""
    group: int = 0

    @property
    def tokens(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How to sample. temperature 0 is greedy; top_p 1 and top_k 0 cut nothing; budgets count tokens."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    thinking_budget: int | None = None
    """At most this many tokens inside the think block; then the early-stop text is injected."""


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """What a stage leaves: a Hugging Face checkpoint or a Parquet data set, with a manifest beside it."""

    path: Path
    kind: Literal["model", "data", "table"]
    manifest: Mapping[str, Any]
