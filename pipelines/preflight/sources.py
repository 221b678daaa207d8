"""A recipe's sources as a command's checks read them: once per form, however many checks and stages look at them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

from posttrain.configs.load import LoadedRecipe
from posttrain.configs.nodes.declaration import Declaration, RowForm
from posttrain.configs.schema import PromptSource
from posttrain.stages.data.load import SourceReport, check_source, to_prompt, with_unique_ids
from posttrain.types import Prompt, Row

TRIED = 20_000
"""Rows of a source that may have millions of them; all are checked as rows."""
_KEPT = 200_000
"""Rows at a time, or one source: a stage's sources are looked at one after the other, more than once."""

T = TypeVar("T")


class Sources:
    """Of sources that aren't stages."""

    def __init__(self, loaded: LoadedRecipe) -> None:
        self._loaded = loaded
        self._reports: dict[str, SourceReport] = {}
        self._kept: OrderedDict[str, list[Any]] = OrderedDict()

    def report(self, source: PromptSource, form: RowForm, stage: Declaration, seed: int = 0) -> SourceReport:
        """What a source holds, every row checked. Raises DataError as `check_source`."""
        if form == "prompts":
            self.prompts(source, stage)
            return self._reports[_name(source, stage)]
        if form == "conversations":
            self.conversations(source, seed)
            return self._reports[f"{seed} {source!r}"]
        name = f"documents {source!r}"
        if name not in self._reports:
            self._reports[name] = check_source(source, self._loaded.recipe_dir, form=form)
        return self._reports[name]

    def prompts(self, source: PromptSource, stage: Declaration) -> list[Prompt]:
        """The prompts of a source of the stage: all, or the first ones of a stage that sifts its rows."""
        most = TRIED if stage.sifts_rows else None

        def make(row: Row, where: str) -> Prompt:
            return to_prompt(row, source, where)

        def finish(found: list[Prompt]) -> list[Prompt]:
            return with_unique_ids(found, {})

        return self._read(_name(source, stage), source, "prompts", make, finish, most=most)

    def conversations(self, source: PromptSource, seed: int) -> list[tuple[Row, str]]:
        """The rows of a source that a stage learns, each with its place; generators draw by the stage's `seed`."""

        def make(row: Row, where: str) -> tuple[Row, str]:
            return row, where

        return self._read(f"{seed} {source!r}", source, "conversations", make, list, seed=seed)

    def skipped(self, source: PromptSource, stage: Declaration) -> int:
        """How many malformed rows were left out of what `prompts` gave."""
        return self._reports[_name(source, stage)].skipped

    def _read(
        self,
        name: str,
        source: PromptSource,
        form: RowForm,
        make: Callable[[Row, str], T],
        finish: Callable[[list[T]], list[T]],
        *,
        most: int | None = None,
        seed: int = 0,
    ) -> list[T]:
        if name not in self._kept:
            made: list[T] = []

            def look(row: Row, where: str) -> None:
                if most is None or len(made) < most:
                    made.append(make(row, where))

            folder = self._loaded.recipe_dir
            self._reports[name] = check_source(source, folder, form=form, seed=seed, look=look)
            self._kept[name] = finish(made)
        self._kept.move_to_end(name)
        while len(self._kept) > 1 and sum(map(len, self._kept.values())) > _KEPT:
            self._kept.popitem(last=False)
        return self._kept[name]


def _name(source: PromptSource, stage: Declaration) -> str:
    return f"{'first ' if stage.sifts_rows else ''}{source!r}"
