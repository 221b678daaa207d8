"""A stage's data without the stage: what its rows become is known before anything of it runs.

`plan --check` and `run` find rows that are too long by it, `data show` prints them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.configs.data_stages import NO_MODEL
from posttrain.configs.load import LoadedRecipe
from posttrain.configs.schema import DataSource, ModelSource, Sft
from posttrain.errors import InputError
from posttrain.pipelines.dag import Node
from posttrain.stages.data.lengths import most_tokens

if TYPE_CHECKING:
    from posttrain.stages.data.chat import ChatFormat


@dataclass(frozen=True, kw_only=True)
class StageReading:
    """What of a stage's context its data depend on (`sft.Reading`), and where its tokenizer is."""

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

    def say(self, text: str, /) -> None:
        self.said.append(text)

    def chat(self) -> ChatFormat:
        """The chat format of the stage's model: of its artifact, or, before that is made, of what it starts from.

        Raises:
            InputError: the stage names no model of its own, or its tokenizer can't be loaded.
        """
        from posttrain.stages.data.chat import open_chat
        from posttrain.stages.data.models import model_path

        source = self._trained_from(getattr(self.node.spec, "model", None) or self.base)
        path, settled = model_path(self, source)
        try:
            return open_chat(path, settled.revision)
        except OSError as error:
            first = str(error).splitlines()[0]
            raise InputError(f"can't load the tokenizer: {first}", where=source.source) from None

    def _trained_from(self, source: ModelSource | None) -> ModelSource:
        stages = self.loaded.recipe.stages
        while source is not None and source.source in stages and source.source not in self.inputs:
            source = getattr(stages[source.source], "model", None)
        if source is None or source.source in NO_MODEL:
            source = self.base
        if source is None:
            raise InputError(f"{self.name} has no model whose tokenizer could be taken", fix="add base: to the recipe")
        return source


def check_lengths(loaded: LoadedRecipe, node: Node) -> dict[str, int]:
    """Rows that are longer than an `sft` stage takes, by source; those of other stages aren't there to be read yet.

    A text has no more tokens than bytes, so that most rows are short without asking a tokenizer. Where it can't be
    loaded yet, nothing is said: the stage will, before its first step.

    Raises:
        DataError: a row is too long, with file and line; or, where such rows are skipped, too many are.
    """
    spec, stages = node.spec, loaded.recipe.stages
    if not isinstance(spec, Sft) or spec.text:
        return {}
    reading = StageReading(loaded=loaded, node=node, inputs={})
    found: dict[str, int] = {}
    chat: ChatFormat | None = None
    for source in (*spec.data, *(spec.validation.data if spec.validation else ())):
        if source.source in stages:
            continue
        long = _long(reading, source, spec.max_length)
        if not long:
            continue
        try:
            chat = chat or reading.chat()
        except InputError:
            return found
        found[source.source] = _count(reading, source, spec, chat)
    return found


def _long(reading: StageReading, source: DataSource, most: int) -> bool:
    return any(_bytes(row) > most for row, _ in _rows(reading, source))


def _bytes(row: Mapping[str, Any]) -> int:
    turns = row.get("messages") or [{"content": row.get("prompt")}]
    return most_tokens([*turns, {"content": row.get("response")}], row.get("tools"))


def _rows(reading: StageReading, source: DataSource) -> Iterator[tuple[dict[str, Any], str]]:
    from posttrain.stages.data.load import check_row, read

    def make(row: dict[str, Any], where: str) -> tuple[dict[str, Any], str]:
        check_row(row, source, where, kind="sft")
        return row, where

    return read(source, make, recipe_dir=reading.recipe_dir, inputs={}, seed=reading.seed)


def _count(reading: StageReading, source: DataSource, spec: Sft, chat: ChatFormat) -> int:
    """How many rows of a source are skipped as too long. Raises DataError as `check_lengths`."""
    from posttrain.stages.data.files import BadRows
    from posttrain.stages.data.fusion import example
    from posttrain.stages.sft import render, row_seed, too_long

    bad, numbers, seed = BadRows(source), count(1), row_seed(reading, source)
    for row, where in _rows(reading, source):
        number = next(numbers)
        tokens = 0
        if _bytes(row) > spec.max_length:
            made = example(row, source, where, number, seed)
            tokens = max(sample.tokens for sample in render(chat, spec, made, made)[0])
        if tokens > spec.max_length:
            bad.met(too_long(tokens, spec, where))
        else:
            bad.rows += 1
    bad.settle()
    return bad.skipped
