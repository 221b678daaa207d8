"""Dialogues of suites that measure mode following: their columns agree with their flags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from posttrain.configs.load import LoadedRecipe
from posttrain.configs.schema import PromptSource
from posttrain.errors import DataError
from posttrain.pipelines.graph.dag import Node
from posttrain.pipelines.preflight.sources import Sources

if TYPE_CHECKING:
    from posttrain.types import Prompt


def check_dialogues(loaded: LoadedRecipe, node: Node, sources: Sources) -> None:
    """Look at the dialogues of a node's suites. Raises DataError for one that would be measured wrongly."""
    for suite in node.declaration.suites:
        for source in suite.prompts if suite.measure == "mode_following" else ():
            if source.source not in loaded.recipe.stages:
                _check(source, sources.prompts(source, node.declaration))


def _check(source: PromptSource, prompts: Sequence[Prompt]) -> None:
    needed = ("queries", "flags", "modes")
    for number, row in enumerate((prompt.columns for prompt in prompts), 1):
        turns = {len(row[name]) if isinstance(row.get(name), list) else 0 for name in needed}
        if len(turns) != 1 or 0 in turns:
            raise DataError(
                "measure: mode_following needs the columns queries, flags and modes: lists with one entry a turn",
                where=f"{source.source}:{number}",
                fix="see builtin:dialogues",
            )
        _check_modes(row, f"{source.source}:{number}")


def _check_modes(row: Mapping[str, Any], where: str) -> None:
    """Raises DataError where `modes` says something else than the flags do: it would be measured wrongly."""
    from posttrain.flags import FLAGS, flagged, last_flag

    said = [row.get("system") or ""]
    for turn, (query, flag, mode) in enumerate(zip(row["queries"], row["flags"], row["modes"], strict=True)):
        if flag not in ("", *FLAGS):
            raise DataError(f"flags[{turn}] is {flag!r}", where=where, fix='use "/think", "/no_think" or ""')
        said.append(flagged(query, flag) if flag else query)
        wanted = last_flag(said) or "think"
        if mode not in (wanted, "closed"):
            raise DataError(
                f"modes[{turn}] is {mode!r}, and the last flag met asks for {wanted!r}", where=where,
                fix="fix it; `closed` is for turns that are asked with the hard switch",
            )  # fmt: skip
