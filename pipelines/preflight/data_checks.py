"""The data of the stages that need work: rows, columns, lengths, and what rewards say of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from posttrain.configs.load import LoadedRecipe
from posttrain.pipelines.preflight.dialogue_checks import check_dialogues
from posttrain.pipelines.preflight.prompt_lengths import PromptLengths
from posttrain.pipelines.preflight.reward_trials import RewardTrials
from posttrain.pipelines.preflight.sandbox_checks import check_rooms
from posttrain.pipelines.preflight.sources import Sources
from posttrain.pipelines.preflight.stage_reading import check_lengths

if TYPE_CHECKING:
    from posttrain.pipelines.planning.plan import Plan


class DataRead(NamedTuple):
    """What `check_data` found: an entry a source, with its stage; and what is odd and no error."""

    sources: list[dict[str, Any]]
    notes: list[str]


def check_data(loaded: LoadedRecipe, plan: Plan) -> DataRead:
    """Read every source of the stages that need work: rows, the columns that their rewards read, and gold answers.

    Raises:
        DataError: a row is malformed, lacks a column, or its gold doesn't satisfy a reward; with file and line.
    """
    check_rooms(loaded, plan)
    found, notes = list[dict[str, Any]](), list[str]()
    sources = Sources(loaded)
    lengths, trials = PromptLengths(loaded, sources), RewardTrials(loaded, sources)
    for stage in plan.pending:
        seed = loaded.recipe.seed if stage.node.spec.seed is None else stage.node.spec.seed
        for item in stage.node.declaration.sources:
            source = item.source
            if source.source in loaded.recipe.stages:
                continue
            report = sources.report(source, item.form, stage.node.declaration, seed)
            columns = list(report.columns)
            read = {"stage": stage.name, "from": source.source, "rows": report.rows, "columns": columns}
            if source.n is not None and report.rows < source.n:
                read["asked"] = source.n
            found.append({**read, "skipped": report.skipped} if report.skipped else read)
        long = check_lengths(loaded, stage.node, sources)
        for entry in found:
            if entry["stage"] == stage.name and long.get(entry["from"]):
                entry["too_long"] = long[entry["from"]]
        check_dialogues(loaded, stage.node, sources)
        lengths.check(stage.node)
        notes += [f"{stage.name}: {note}" for note in trials.check(stage.node)]
    return DataRead(found, notes)
