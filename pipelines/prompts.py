"""A recipe's prompts as a command's checks read them: a source that several look at is read once."""

from __future__ import annotations

from collections import OrderedDict

from posttrain.configs.declaration import Declaration
from posttrain.configs.load import LoadedRecipe
from posttrain.configs.schema import PromptSource
from posttrain.types import Prompt

TRIED = 20_000
"""Rows of a source that may have millions of them; all are checked as rows."""
_KEPT = 200_000
"""Rows at a time, or one source: a stage's sources are looked at one after the other, more than once."""


class Prompts:
    """Of sources that aren't stages."""

    def __init__(self, loaded: LoadedRecipe) -> None:
        self._loaded = loaded
        self._kept: OrderedDict[str, list[Prompt]] = OrderedDict()
        self._bad: dict[str, int] = {}

    def of(self, source: PromptSource, stage: Declaration) -> list[Prompt]:
        """The prompts of a source of the stage. Raises DataError as `load_prompts`."""
        from posttrain.stages.data.files import BadRows
        from posttrain.stages.data.load import load_prompts

        source = _tried(source, stage)
        name = repr(source)
        if name not in self._kept:
            bad = BadRows(source)
            folder = self._loaded.recipe_dir
            (self._kept[name],) = load_prompts([source], recipe_dir=folder, inputs={}, seed=0, bad=[bad])
            self._bad[name] = bad.skipped
        self._kept.move_to_end(name)
        while len(self._kept) > 1 and sum(map(len, self._kept.values())) > _KEPT:
            self._kept.popitem(last=False)
        return self._kept[name]

    def skipped(self, source: PromptSource, stage: Declaration) -> int:
        """How many malformed rows were left out of what `of` gave."""
        return self._bad.get(repr(_tried(source, stage)), 0)


def _tried(source: PromptSource, stage: Declaration) -> PromptSource:
    if not stage.sifts_rows:
        return source
    return source.model_copy(update={"n": min(source.n or TRIED, TRIED)})
