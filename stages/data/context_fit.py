"""Prompts that a model can't answer, known before anything is written: too long for its context, answered already."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from posttrain.configs.schema import ModelSource, RolloutCluster
from posttrain.errors import DataError, InputError

if TYPE_CHECKING:
    from posttrain.stages.context import StageContext
    from posttrain.stages.data.files import BadRows
    from posttrain.stages.models.chat import ChatFormat
    from posttrain.types import Prompt

_FRAME = 64
"""More tokens than a template puts around a turn."""
_TOOLS = 1024
"""More than it says of tools as such."""


def most_tokens(turns: Sequence[Mapping[str, Any]], tools: Any) -> int:
    """At least as many as a conversation has: a text has no more tokens than bytes."""
    said = json.dumps([turns, tools], ensure_ascii=False, default=str)
    return len(said.encode("utf-8", "replace")) + _FRAME * (len(turns) + 1) + (_TOOLS if tools else 0)


def context_tokens(config: Mapping[str, Any], rollout: RolloutCluster) -> int | None:
    """Tokens of prompt and completion that a model of this config is given for.

    None where it isn't known: vLLM may stretch a context that can be.
    """
    if rollout.max_context is not None:
        return rollout.max_context
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if rollout.engine == "vllm" and isinstance(scaling, Mapping) and scaling.get("rope_type", "default") != "default":
        return None
    own = config.get("max_position_embeddings")
    return own if isinstance(own, int) else None


@dataclass(frozen=True, kw_only=True)
class Room:
    """Completions of up to `max_tokens` in a context of `limit` tokens."""

    max_tokens: int
    limit: int

    def may_lack(self, prompt: Prompt) -> bool:
        """Whether to ask a tokenizer: most prompts are short."""
        return most_tokens(prompt.messages, prompt.columns.get("tools")) > self.limit - self.max_tokens


def answered(prompt: Prompt) -> bool:
    """Whether a prompt ends with an assistant's turn, as a row of training data does."""
    return bool(prompt.messages[-1].get("role") == "assistant")


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A model that will answer, and what it can't."""

    room: Room | None = None
    """None where the model's context isn't known."""
    chat: ChatFormat | None = None
    """None where lengths can't be measured."""

    @classmethod
    def of(cls, context: StageContext, model: ModelSource, max_tokens: int) -> Self:
        """Of a stage's model. Raises InputError if it has no config."""
        from transformers import AutoConfig

        from posttrain.stages.models.chat import open_chat
        from posttrain.stages.models.locations import model_path

        path, source = model_path(context.locations, model)
        try:
            config = AutoConfig.from_pretrained(path, revision=source.revision).get_text_config().to_dict()
        except OSError as error:
            first = str(error).splitlines()[0]
            raise InputError(f"can't read the model's config: {first}", where=path) from None
        limit = context_tokens({**config, **(source.scratch or {})}, context.cluster.rollout)
        room = None if limit is None else Room(max_tokens=max_tokens, limit=limit)
        return cls(room=room, chat=open_chat(path, source.revision))

    def wrong(self, prompt: Prompt, where: str = "") -> DataError | None:
        """Why the model can't answer a prompt."""
        if answered(prompt):
            return DataError(
                "the prompt ends with an assistant's turn: it is answered already", where=where,
                fix="leave that turn out of the prompt; rewards read columns beside it",
            )  # fmt: skip
        room = self.room
        if room is None or self.chat is None or not room.may_lack(prompt):
            return None
        tokens = len(self.chat.prompt_ids(prompt))
        if tokens + room.max_tokens <= room.limit:
            return None
        return DataError(
            f"a prompt of {tokens} tokens and a completion of {room.max_tokens} don't fit a context of {room.limit}",
            where=where,
            fix="leave the row out, shorten it, or lower sampling.max_tokens",
        )

    def check(self, prompts: Sequence[Prompt], source: str) -> None:
        """Raises DataError if there is one that the model can't answer."""
        for number, prompt in enumerate(prompts, 1):
            if error := self.wrong(prompt, _place(source, number, prompt)):
                raise error

    def answerable(self, prompts: Sequence[Prompt], bad: BadRows) -> list[Prompt]:
        """Those of a source that the model can answer; the others count as malformed.

        Raises:
            DataError: there is such a one and the recipe skips none; or too many, or all, are.
        """
        found = []
        for number, prompt in enumerate(prompts, 1):
            if error := self.wrong(prompt, _place(bad.source.source, number, prompt)):
                bad.turned_out(error)
            else:
                found.append(prompt)
        bad.settle()
        if prompts and not found:
            raise DataError(f"no prompt is left to answer; the first: {bad.errors[0].what}", where=bad.source.source)
        return found


def _place(source: str, number: int, prompt: Prompt) -> str:
    return f"{source}: row {number} ({prompt.id})"
