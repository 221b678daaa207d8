"""Rewards are tried before a run starts: on its rows' columns, on known answers, and on one answer of no worth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from posttrain.configs.load import LoadedRecipe
from posttrain.configs.schema import Curate, Evaluate, Grpo, PromptSource, RewardUse, Sample
from posttrain.errors import DataError, RecipeError
from posttrain.pipelines.dag import Node
from posttrain.pipelines.prompts import Prompts
from posttrain.types import Prompt

_SHOWN = 8
"""Values of a column that an error names."""

Judged = tuple[Sequence[PromptSource], Sequence[RewardUse]]


class RewardTrials:
    """Of one command: what several stages have in common is tried once."""

    def __init__(self, loaded: LoadedRecipe, prompts: Prompts) -> None:
        self._loaded, self._read = loaded, prompts
        self._tried: set[str] = set()

    def check(self, node: Node) -> list[str]:
        """Try the rewards that will judge the node's answers; where its prompts come from stages, nothing is known yet.

        Returns what is odd: rewards whose `when` fits no row, which a list of several stages' rewards may have.

        Raises:
            DataError: a row lacks what a reward reads, its gold isn't paid, or a function fails on a plain answer.
            RecipeError: no reward applies to any row, or a reward can't be loaded.
        """
        notes: list[str] = []
        for sources, uses in judged(node):
            known = [source for source in sources if source.source not in self._loaded.recipe.stages]
            prompts = [self._prompts(source, uses, node.spec) for source in known]
            if len(known) == len(sources):
                notes += self._idle(node, uses, [prompt for own in prompts for prompt in own])
        return notes

    def _prompts(self, source: PromptSource, uses: Sequence[RewardUse], spec: object) -> list[Prompt]:
        from posttrain.rewards.base import check_columns
        from posttrain.rewards.gold import check_functions, check_gold
        from posttrain.stages.data.query_rules import answered

        prompts = self._read.of(source, spec)
        if isinstance(spec, Curate):  # rows without an answer are dropped there, with the reason
            prompts = answered(prompts, spec, self._loaded.recipe_dir)
        pair = f"{source!r} {uses!r}"  # the same suites come after many stages
        if pair in self._tried:
            return prompts
        self._tried.add(pair)
        try:
            check_columns(uses, prompts, self._loaded.recipe_dir)
            check_gold(uses, prompts, self._loaded.recipe_dir)
            check_functions(uses, prompts, self._loaded.recipe_dir)
        except DataError as error:
            raise DataError(error.what, where=f"{source.source}: {error.where}", fix=error.fix) from None
        return prompts

    def _idle(self, node: Node, uses: Sequence[RewardUse], prompts: Sequence[Prompt]) -> list[str]:
        from posttrain.rewards.base import applies, row_columns

        rows = [row_columns(prompt) for prompt in prompts]
        idle = [use for use in uses if use.when and rows and not any(applies(use, row) for row in rows)]
        notes = [f"reward {use.use!r}: `when` fits none of {len(rows)} rows: {_values(use.when, rows)}" for use in idle]
        if idle and len(idle) == len(uses):
            what = f"{node.name}: no reward applies to any row; {notes[0]}"
            raise RecipeError(what, where=self._loaded.where(node.at), fix="mend `when`, or the rows' columns")
        return notes


def _values(when: Any, rows: Sequence[dict[str, Any]]) -> str:
    found = []
    for name in when:
        values = list(dict.fromkeys(str(row[name]) for row in rows if row.get(name) not in (None, "")))
        more = ", ..." if len(values) > _SHOWN else ""
        found.append(f"`{name}` is {', '.join(values[:_SHOWN])}{more}" if values else f"no row has a column `{name}`")
    return "; ".join(found)


def judged(node: Node) -> Iterator[Judged]:
    """Sources of prompts with the rewards that will judge the answers."""
    spec = node.spec
    if isinstance(spec, Evaluate):
        yield from ((suite.prompts, suite.rewards) for suite in spec.suites if suite.measure != "mode_following")
        return
    if isinstance(spec, Grpo) and spec.watch is not None:
        yield spec.watch.prompts, spec.watch.rewards or spec.rewards
    if isinstance(spec, Curate) and spec.model is None and spec.without_thinking is None:
        return  # nobody answers
    if not isinstance(spec, Sample) or any(use.use == "correct" for use in spec.filters):  # else scores decide nothing
        uses = getattr(spec, "rewards", ())
        if uses:
            yield getattr(spec, "prompts", ()), uses
