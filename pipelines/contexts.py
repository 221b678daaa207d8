"""Whether models can answer the prompts that they will be asked, before anything is written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from posttrain.configs.data_stages import NO_MODEL
from posttrain.configs.load import LoadedRecipe
from posttrain.configs.schema import Curate, Distill, Evaluate, Grpo, ModelSource, PromptSource, Sample
from posttrain.errors import DataError, InputError, RecipeError
from posttrain.pipelines.dag import Node
from posttrain.pipelines.estimate import config_of
from posttrain.pipelines.prompts import Prompts
from posttrain.pipelines.reading import StageReading
from posttrain.stages.data.lengths import Fit, Room, context_tokens

if TYPE_CHECKING:
    from posttrain.stages.data.chat import ChatFormat
    from posttrain.types import Prompt


@dataclass(frozen=True, kw_only=True)
class Writing:
    """Completions for the prompts of some sources."""

    sources: Sequence[PromptSource]
    room: Room | None
    """None where the model's context isn't known."""


def check_max_tokens(loaded: LoadedRecipe, nodes: Iterable[Node]) -> None:
    """Refuse completions that leave no room for a prompt. Raises RecipeError."""
    for node in nodes:
        for writing in _writings(loaded, node):
            room = writing.room
            if room is not None and room.max_tokens >= room.limit:
                raise RecipeError(
                    f"{node.name}: completions of max_tokens {room.max_tokens} leave no room for a prompt in a "
                    f"context of {room.limit} tokens",
                    where=loaded.where(node.at), fix="lower sampling.max_tokens",
                )  # fmt: skip


class PromptLengths:
    """Of one command: what several stages ask of a source is looked at once."""

    def __init__(self, loaded: LoadedRecipe, prompts: Prompts) -> None:
        self._loaded, self._read = loaded, prompts
        self._seen: set[str] = set()

    def check(self, node: Node) -> None:
        """Refuse prompts that leave no room for their completions or are answered already, or more than the source may
        skip; those of other stages aren't there to be read yet. Where the tokenizer can't be loaded yet, nothing is
        said of lengths.

        Raises:
            DataError: a prompt can't be answered, with its row; or too many can't.
        """
        if isinstance(node.spec, Curate):
            return  # it drops them, and says so
        for writing in _writings(self._loaded, node):
            for source in writing.sources:
                asked = f"{source!r} {writing.room} {isinstance(node.spec, Evaluate)}"
                if source.source in self._loaded.recipe.stages or asked in self._seen:
                    continue
                self._seen.add(asked)
                self._look(node, writing.room, source, self._read.of(source, node.spec))

    def _look(self, node: Node, room: Room | None, source: PromptSource, prompts: Sequence[Prompt]) -> None:
        from posttrain.stages.data.files import BadRows

        fit = Fit(room=room, chat=self._chat(node) if room is not None and any(map(room.may_lack, prompts)) else None)
        try:
            if isinstance(node.spec, Evaluate):  # it asks all or none
                fit.check(prompts, source.source)
            else:
                skipped = self._read.skipped(source, node.spec)
                fit.answerable(prompts, BadRows(source, rows=len(prompts), skipped=skipped))
        except DataError as error:
            raise DataError(f"{node.name}: {error.what}", where=error.where, fix=error.fix) from None

    def _chat(self, node: Node) -> ChatFormat | None:
        try:
            return StageReading(loaded=self._loaded, node=node, inputs={}).chat()
        except InputError:
            return None


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
    if isinstance(spec, Grpo) and spec.watch is not None:
        found.append((spec.model, spec.watch.prompts, spec.sampling.max_tokens))
    for model, sources, most in found:
        if model is not None and model.source in NO_MODEL:
            continue
        limit = context_tokens(config_of(loaded, model), loaded.recipe.cluster.rollout) if model and most else None
        room = None if limit is None or most is None else Room(max_tokens=most, limit=limit)
        yield Writing(sources=sources, room=room)
