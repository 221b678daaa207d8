"""What a `sample` stage stores beside its rows: its model's distribution at every token of every response."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from posttrain.configs.schema import ModelSource, Store
from posttrain.flags import with_flag
from posttrain.stages.context import StageContext
from posttrain.stages.data.load import derive_seed
from posttrain.stages.data.row_checks import row_messages
from posttrain.stages.learner.distributions import FOLDER, ROWS_A_FILE, DistributionForm, write_stored
from posttrain.stages.learner.rank.frozen_names import teacher_name
from posttrain.stages.models.chat import ChatFormat, open_chat
from posttrain.stages.models.locations import model_path
from posttrain.stages.models.model_files import ModelSpec
from posttrain.thinking import split_thinking
from posttrain.types import Message, Sample

MICRO_TOKENS = 8192


def store_distributions(context: StageContext, model: ModelSource, rule: Store, rows: Sequence[dict[str, Any]]) -> None:
    """Score the kept rows with the model that wrote them, in the learner, and write what `rule` keeps.

    The ids are those that `sft` would train on: the response as the last turn behind its prompt, with the flag of the
    mode it was asked in. They are stored too, so that nothing is rendered again.
    """
    path, source = model_path(context.locations, model)
    chat = open_chat(path, source.revision)
    form = (
        DistributionForm(kind="top_k", count=rule.top_k)
        if rule.top_k
        else DistributionForm(kind="draws", count=rule.draws)
    )
    learner = context.workers.learner()
    learner.load_frozen(ModelSpec.of(path, source), teacher_name())
    context.progress.start(len(rows), unit="row")
    for number, start in enumerate(range(0, len(rows), ROWS_A_FILE)):
        context.check_stop()
        part = [training_sample(chat, row) for row in rows[start : start + ROWS_A_FILE]]
        seed = derive_seed(context.seed, context.name, "store", number)
        told = learner.with_targets(part, form, frozen=teacher_name(), micro_tokens=MICRO_TOKENS, seed=seed)
        write_stored(context.artifact_dir / FOLDER, form, told, chat.fingerprint(), first=number)
        context.progress.advance(len(part), "distributions stored")
    learner.free()


def training_sample(chat: ChatFormat, row: dict[str, Any]) -> Sample:
    """A row of `sample` as what is trained on."""
    messages: Sequence[Message] = row_messages(row, "row")
    split = split_thinking(row["response"])
    if row.get("mode") in ("think", "no_think"):
        messages = with_flag(messages, f"/{row['mode']}")
    answer = {"role": "assistant", "reasoning_content": split.thinking, "content": split.answer}
    return chat.last_turn([*messages, answer], row.get("tools"))
