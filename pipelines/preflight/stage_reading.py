"""A stage's data without the stage: what its rows become is known before anything of it runs.

`plan --check` and `run` find rows that are too long by it, `data show` prints them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from posttrain.configs.kinds.data_stages import NO_MODEL
from posttrain.configs.load import LoadedRecipe
from posttrain.configs.schema import DataSource, ModelSource
from posttrain.errors import InputError
from posttrain.pipelines.graph.dag import Node
from posttrain.pipelines.preflight.sources import Sources
from posttrain.stages.models.locations import Locations
from posttrain.types import Row

if TYPE_CHECKING:
    from posttrain.stages.models.chat import ChatFormat


@dataclass(frozen=True, kw_only=True)
class StageReading:
    """What of a stage's context its data depend on (`training_rows.Reading`), and where its tokenizer is."""

    loaded: LoadedRecipe
    node: Node
    inputs: Mapping[str, Path]
    """Finished artifacts by stage."""
    said: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def seed(self) -> int:
        return self.loaded.recipe.seed if self.node.spec.seed is None else self.node.spec.seed

    @property
    def recipe_dir(self) -> Path:
        return self.loaded.recipe_dir

    @property
    def base(self) -> ModelSource | None:
        return self.loaded.recipe.base

    @property
    def locations(self) -> Locations:
        return Locations(recipe_dir=self.loaded.recipe_dir, inputs=self.inputs, base=self.base)

    def say(self, text: str, /) -> None:
        self.said.append(text)

    def chat(self) -> ChatFormat:
        """The chat format of the stage's model: of its artifact, or, before that is made, of what it starts from.

        Raises:
            InputError: the stage names no model of its own, or its tokenizer can't be loaded.
        """
        from posttrain.stages.models.chat import open_chat
        from posttrain.stages.models.locations import model_path

        source = self._trained_from(self.node.spec.model or self.base)
        path, settled = model_path(self.locations, source)
        try:
            return open_chat(path, settled.revision)
        except OSError as error:
            first = str(error).splitlines()[0]
            raise InputError(f"can't load the tokenizer: {first}", where=source.source) from None

    def _trained_from(self, source: ModelSource | None) -> ModelSource:
        stages = self.loaded.recipe.stages
        while source is not None and source.source in stages and source.source not in self.inputs:
            source = stages[source.source].model
        if source is None or source.source in NO_MODEL:
            source = self.base
        if source is None:
            raise InputError(f"{self.name} has no model whose tokenizer could be taken", fix="add base: to the recipe")
        return source


def check_lengths(loaded: LoadedRecipe, node: Node, sources: Sources) -> dict[str, int]:
    """The rows of a training stage that are too long for it, by source. Raises DataError as its `long_rows` does."""
    if not node.declaration.rendering:
        return {}
    reading = StageReading(loaded=loaded, node=node, inputs={})

    def rows_of(source: DataSource) -> list[tuple[Row, str]] | None:
        return None if source.source in loaded.recipe.stages else sources.conversations(source, reading.seed)

    found: dict[str, int] = import_module(node.declaration.rendering).long_rows(
        reading, node.spec, reading.chat, rows_of
    )
    return found
