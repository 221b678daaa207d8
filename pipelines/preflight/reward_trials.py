"""Rewards are tried before a run starts: on its rows' columns, on known answers, and on answers of no worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.configs.load import LoadedRecipe
from posttrain.configs.nodes.declaration import Generation
from posttrain.configs.schema import PromptSource, RewardUse
from posttrain.errors import DataError, RecipeError
from posttrain.pipelines.graph.dag import Node
from posttrain.pipelines.preflight.sources import TRIED, Sources
from posttrain.types import Prompt

_SHOWN = 8
"""Values of a column that are told."""


class RewardTrials:
    """Of one command: what several stages have in common is tried once."""

    def __init__(self, loaded: LoadedRecipe, sources: Sources) -> None:
        self._loaded, self._sources = loaded, sources
        self._tried: set[str] = set()

    def check(self, node: Node) -> list[str]:
        """Try the rewards that will judge the node's answers; where its prompts come from stages, nothing is known yet.

        Returns what is odd: rewards whose `when` fits no row, which a list of several stages' rewards may have.

        Raises:
            DataError: a row lacks what a reward reads, its gold isn't paid, or a function fails on a plain answer.
            RecipeError: no reward applies to any row, or a reward can't be loaded.
        """
        notes: list[str] = []
        for one in node.declaration.generations:
            if not one.rewards:
                continue
            conditions = _Conditions(one.rewards)
            for source in one.sources:
                if source.source in self._loaded.recipe.stages:
                    conditions.unknown = True
                    continue
                pair = f"{source!r} {one.rewards!r}"  # the same suites come after many stages
                if pair in self._tried and not conditions.open:
                    continue
                prompts = self._sources.prompts(source, node.declaration)
                if pair not in self._tried:
                    self._try(source, one, prompts, node)
                    self._tried.add(pair)
                # An environment adds columns when an episode is over; of a crawl not all rows were looked at.
                conditions.unknown |= source.environment is not None
                conditions.unknown |= node.declaration.sifts_rows and len(prompts) >= TRIED
                conditions.see(prompts)
            found = conditions.idle()
            if found and len(found) == len(one.rewards):
                what = f"{node.name}: no reward applies to any row; {found[0]}"
                raise RecipeError(what, where=self._loaded.where(node.at), fix="fix `when`, or the rows' columns")
            notes += found
        return notes

    def _try(self, source: PromptSource, one: Generation, prompts: list[Prompt], node: Node) -> None:
        from posttrain.rewards.base import check_columns
        from posttrain.rewards.mixture.gold import check_functions, check_gold
        from posttrain.stages.curation.query_rules import answered

        if node.declaration.drops_unanswered:
            prompts = answered(prompts, one.rewards, self._loaded.recipe_dir)
        try:
            check_columns(one.rewards, prompts, self._loaded.recipe_dir)
            check_gold(one.rewards, prompts, self._loaded.recipe_dir)
            if source.environment is None:
                check_functions(one.rewards, prompts, self._loaded.recipe_dir, one.group_size)
        except DataError as error:
            raise DataError(error.what, where=f"{source.source}: {error.where}", fix=error.fix) from None


class _Conditions:
    """Which rewards' `when` some row meets."""

    def __init__(self, uses: Sequence[RewardUse]) -> None:
        self.open = [use for use in uses if use.when]
        """Those that no row met so far."""
        self.unknown = False
        """Not all rows, or not all of their columns, can be known."""
        self._rows = 0
        self._values: dict[str, dict[str, None]] = {name: {} for use in self.open for name in use.when}

    def see(self, prompts: Sequence[Prompt]) -> None:
        from posttrain.rewards.base import applies, row_columns

        self._rows += len(prompts)
        for prompt in prompts if self.open and not self.unknown else ():
            columns = row_columns(prompt)
            self.open = [use for use in self.open if not applies(use, columns)]
            if not self.open:
                return
            for name, values in self._values.items():
                if len(values) <= _SHOWN and columns.get(name) not in (None, ""):
                    values[str(columns[name])] = None

    def idle(self) -> list[str]:
        """What to say of each reward that no row comes to."""
        if self.unknown or not self._rows:
            return []
        return [
            f"reward {use.use!r}: `when` fits none of {self._rows} rows: {self._told(use.when)}" for use in self.open
        ]

    def _told(self, when: Mapping[str, Any]) -> str:
        found = []
        for name in when:
            values = list(self._values[name])
            more = ", ..." if len(values) > _SHOWN else ""
            some = f"`{name}` is {', '.join(values[:_SHOWN])}{more}"
            found.append(some if values else f"no row has a column `{name}`")
        return "; ".join(found)
