"""Whether models can answer the prompts that they will be asked, before anything is written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from posttrain.configs.data_stages import NO_MODEL
from posttrain.configs.declaration import Generation
from posttrain.configs.load import LoadedRecipe
from posttrain.configs.schema import PromptSource
from posttrain.errors import DataError, InputError, RecipeError
from posttrain.pipelines.dag import Node
from posttrain.pipelines.estimate import config_of
from posttrain.pipelines.reading import StageReading
from posttrain.pipelines.sources import Sources
from posttrain.stages.data.context_fit import Fit, Room, context_tokens

if TYPE_CHECKING:
    from posttrain.stages.models.chat import ChatFormat


def check_max_tokens(loaded: LoadedRecipe, nodes: Iterable[Node]) -> None:
    """Refuse completions that leave no room for a prompt. Raises RecipeError."""
    for node in nodes:
        for generation in _generations(node):
            room = _room(loaded, generation)
            if room is not None and room.max_tokens >= room.limit:
                raise RecipeError(
                    f"{node.name}: completions of max_tokens {room.max_tokens} leave no room for a prompt in a "
                    f"context of {room.limit} tokens",
                    where=loaded.where(node.at), fix="lower sampling.max_tokens",
                )  # fmt: skip


class PromptLengths:
    """Of one command: what several stages ask of a source is looked at once."""

    def __init__(self, loaded: LoadedRecipe, sources: Sources) -> None:
        self._loaded, self._sources = loaded, sources
        self._seen: set[str] = set()

    def check(self, node: Node) -> None:
        """Refuse prompts that leave no room for their completions or are answered already, or more than the source may
        skip; those of other stages aren't there to be read yet. Where the tokenizer can't be loaded yet, nothing is
        said of lengths.

        Raises:
            DataError: a prompt can't be answered, with its row; or too many can't.
        """
        if node.declaration.sifts_rows:
            return  # it drops them, and says so
        for generation in _generations(node):
            room = _room(self._loaded, generation)
            for source in generation.sources:
                asked = f"{source!r} {room} {generation.all_rows}"
                if source.source in self._loaded.recipe.stages or asked in self._seen:
                    continue
                self._seen.add(asked)
                self._look(node, room, source, all_rows=generation.all_rows)

    def _look(self, node: Node, room: Room | None, source: PromptSource, *, all_rows: bool) -> None:
        from posttrain.stages.data.files import BadRows

        prompts = self._sources.prompts(source, node.declaration)
        fit = Fit(room=room, chat=self._chat(node) if room is not None and any(map(room.may_lack, prompts)) else None)
        try:
            if all_rows:
                fit.check(prompts, source.source)
            else:
                skipped = self._sources.skipped(source, node.declaration)
                fit.answerable(prompts, BadRows(source, rows=len(prompts), skipped=skipped))
        except DataError as error:
            raise DataError(f"{node.name}: {error.what}", where=error.where, fix=error.fix) from None

    def _chat(self, node: Node) -> ChatFormat | None:
        try:
            return StageReading(loaded=self._loaded, node=node, inputs={}).chat()
        except InputError:
            return None


def _room(loaded: LoadedRecipe, generation: Generation) -> Room | None:
    """What the model's context leaves for completions; None where it isn't known."""
    model = generation.model
    if model is None:
        return None
    limit = context_tokens(config_of(loaded, model), loaded.recipe.cluster.rollout)
    return None if limit is None else Room(max_tokens=generation.max_tokens, limit=limit)


def _generations(node: Node) -> Iterator[Generation]:
    """Those of a model or an endpoint: what `sample` takes from the rows themselves needs no room."""
    for generation in node.declaration.generations:
        if generation.model is None or generation.model.source not in NO_MODEL:
            yield generation
