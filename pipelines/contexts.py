"""Whether prompts and completions fit the context of the models that will write them, before anything is written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from posttrain.configs.load import LoadedRecipe
from posttrain.configs.schema import Curate, Distill, Evaluate, Grpo, ModelSource, PromptSource, Sample
from posttrain.errors import DataError, InputError, RecipeError
from posttrain.pipelines.dag import Node
from posttrain.pipelines.estimate import config_of
from posttrain.pipelines.prompts import Prompts
from posttrain.pipelines.reading import StageReading

if TYPE_CHECKING:
    from posttrain.types import Prompt

_FRAME = 64
"""More tokens than a template puts around a turn."""


@dataclass(frozen=True, kw_only=True)
class Writing:
    """Completions of up to `max_tokens` for the prompts of some sources, in a context of `limit` tokens."""

    sources: Sequence[PromptSource]
    max_tokens: int
    limit: int


def check_max_tokens(loaded: LoadedRecipe, nodes: Iterable[Node]) -> None:
    """Refuse completions that leave no room for a prompt. Raises RecipeError."""
    for node in nodes:
        for writing in _writings(loaded, node):
            if writing.max_tokens >= writing.limit:
                raise RecipeError(
                    f"{node.name}: completions of max_tokens {writing.max_tokens} leave no room for a prompt in a "
                    f"context of {writing.limit} tokens",
                    where=loaded.where(node.at), fix="lower sampling.max_tokens",
                )  # fmt: skip


class PromptLengths:
    """Of one command: what several stages ask of a source is looked at once."""

    def __init__(self, loaded: LoadedRecipe, prompts: Prompts) -> None:
        self._loaded, self._read = loaded, prompts
        self._seen: set[str] = set()

    def check(self, node: Node) -> None:
        """Refuse prompts that leave no room for their completions; those of other stages aren't there to be read yet.

        A text has no more tokens than bytes, so that most rows are short without asking a tokenizer. Where it can't be
        loaded yet, nothing is said.

        Raises:
            DataError: a prompt is too long, with its row.
        """
        for writing in _writings(self._loaded, node):
            room = writing.limit - writing.max_tokens
            for source in writing.sources:
                asked = f"{source!r} {room}"
                if source.source in self._loaded.recipe.stages or asked in self._seen:
                    continue
                self._seen.add(asked)
                numbered = enumerate(self._read.of(source, node.spec), 1)
                if long := [(number, prompt) for number, prompt in numbered if _bytes(prompt) > room]:
                    self._measure(node, writing, source, long)

    def _measure(self, node: Node, writing: Writing, source: PromptSource, long: Sequence[tuple[int, Prompt]]) -> None:
        try:
            chat = StageReading(loaded=self._loaded, node=node, inputs={}).chat()
        except InputError:
            return
        for number, prompt in long:
            if (tokens := len(chat.prompt_ids(prompt))) > writing.limit - writing.max_tokens:
                raise DataError(
                    f"{node.name}: a prompt of {tokens} tokens and a completion of {writing.max_tokens} don't fit "
                    f"a context of {writing.limit}",
                    where=f"{source.source}: row {number} ({prompt.id})",
                    fix="leave the row out, shorten it, or lower sampling.max_tokens",
                )


def _bytes(prompt: Prompt) -> int:
    said = [str(message.get("content") or "") for message in prompt.messages]
    said += [repr(tool) for tool in prompt.columns.get("tools") or ()]
    return sum(len(text.encode("utf-8", "replace")) + _FRAME for text in said)


def _writings(loaded: LoadedRecipe, node: Node) -> Iterator[Writing]:
    """What a node has models write, where the model's context is known."""
    spec = node.spec
    found: list[tuple[ModelSource | None, Sequence[PromptSource], int | None]] = []
    if isinstance(spec, Evaluate):
        found = [
            (spec.model, suite.prompts, suite.sampling.max_tokens)
            for suite in spec.suites
            if suite.measure != "mode_following"  # a dialogue's turns share a room
        ]
    elif isinstance(spec, Grpo | Sample | Curate) or (isinstance(spec, Distill) and spec.stored is None):
        found = [(spec.model, spec.prompts, spec.sampling.max_tokens)]
    for model, sources, most in found:
        limit = None if model is None else _context(loaded, model)
        if limit is not None and most is not None:
            yield Writing(sources=sources, max_tokens=most, limit=limit)


def _context(loaded: LoadedRecipe, model: ModelSource) -> int | None:
    """Tokens of prompt and completion; None where it isn't known: vLLM may stretch a context that can be."""
    rollout, config = loaded.recipe.cluster.rollout, config_of(loaded, model)
    if rollout.max_context is not None:
        return rollout.max_context
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if rollout.engine == "vllm" and isinstance(scaling, Mapping) and scaling.get("rope_type", "default") != "default":
        return None
    own = config.get("max_position_embeddings")
    return own if isinstance(own, int) else None
