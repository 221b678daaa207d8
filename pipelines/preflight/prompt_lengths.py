"""Whether models can answer the prompts that they will be asked, before anything is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from posttrain.configs.load import LoadedRecipe
from posttrain.configs.schema import PromptSource
from posttrain.errors import DataError, InputError
from posttrain.pipelines.graph.dag import Node
from posttrain.pipelines.preflight.context_room import generations_of, room_of
from posttrain.pipelines.preflight.sources import Sources
from posttrain.pipelines.preflight.stage_reading import StageReading
from posttrain.stages.data.context_fit import Fit, Room

if TYPE_CHECKING:
    from posttrain.stages.models.chat import ChatFormat


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
        for generation in generations_of(node):
            room = room_of(self._loaded, generation)
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
