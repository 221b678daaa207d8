"""Supervised fine-tuning on a weighted mixture: long-CoT cold start, thinking-mode fusion, off-policy distillation.

Fusion (report, 4.3 and Table 9): thinking rows carry /think or no flag at all (thinking is the default), non-thinking
rows /no_think and an empty think block as target; in dialogues the last flag met decides, and earlier turns have lost
their think blocks, as they will have when the model is used.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from posttrain.configs.schema import DataSource, Sft
from posttrain.errors import DataError
from posttrain.stages.context import StageContext, StageResult
from posttrain.stages.data.chat import ChatFormat, with_flag, without_flag
from posttrain.stages.data.files import BadRows
from posttrain.stages.data.load import Row, check_row, derive_seed, load_rows
from posttrain.stages.data.row_checks import check_response, row_messages
from posttrain.stages.data.schedule import BatchSchedule
from posttrain.stages.learner.losses import CrossEntropy
from posttrain.stages.learner.session import TrainingSession
from posttrain.thinking import CLOSE, flag_in_force, split_thinking
from posttrain.types import Sample

Conversation = list[dict[str, Any]]

NO_FLAG_SHARE = 3  # one thinking row in three has no flag: the default mode
INHERITED_SHARE = 0.5  # of a dialogue's last turns whose flag repeats the one in force, as many go without it


def run(context: StageContext) -> StageResult:
    """Train the stage's model on its data."""
    spec: Sft = context.spec
    session = TrainingSession.start(context, spec.steps)
    sources = build_sources(context, session.chat, spec)
    schedule = BatchSchedule(sources, [d.weight for d in spec.data], size=spec.batch_size, seed=context.seed)
    rows = sum(map(len, sources))
    tokens = sum(s.tokens for source in sources for s in source)
    context.say(f"{context.name}: {rows} rows, {tokens} tokens, {spec.steps} steps of {spec.batch_size}")
    metrics: dict[str, float] = {}
    for step in session.steps():
        started = time.monotonic()
        metrics = session.learner.step(schedule.batch(step), CrossEntropy(), step=step, micro_tokens=spec.micro_tokens)
        metrics["seconds_train"] = time.monotonic() - started
        session.end_step(step, metrics, f"loss {metrics['loss']:.3f}")
    return session.finish({"loss": metrics["loss"], "rows": float(rows)} if metrics else {"rows": float(rows)})


def build_sources(context: StageContext, chat: ChatFormat, spec: Sft) -> list[list[Sample]]:
    """The training samples of each source.

    Raises:
        DataError: a row has nothing to learn from, or is longer than max_length.
    """
    tables = [_rows(context, source, spec) for source in spec.data]
    if spec.text:
        return [[_document(chat, row, spec) for row in rows] for rows in tables]
    conversations = [
        [_messages(row, source, number) for number, row in enumerate(rows, 1)]
        for rows, source in zip(tables, spec.data, strict=True)
    ]
    earlier = Earlier(conversations, [source.weight for source in spec.data])
    rng = np.random.default_rng(derive_seed(context.seed, context.name, "dialogues"))
    samples = []
    for rows, turns, source in zip(tables, conversations, spec.data, strict=True):
        mine = []
        for number, (row, messages) in enumerate(zip(rows, turns, strict=True), 1):
            if earlier.pools and rng.random() < spec.multi_turn:
                messages = _dialogue(messages, earlier, rng)
            render = chat.conversation if spec.turns == "all" else chat.last_turn
            sample = render(messages, row.get("tools"))
            if sample.tokens > spec.max_length:
                raise DataError(
                    f"{sample.tokens} tokens, more than max_length={spec.max_length}", where=f"{source.source}:{number}"
                )
            mine.append(sample)
        samples.append(mine)
    return samples


def _rows(context: StageContext, source: DataSource, spec: Sft) -> list[Row]:
    """The rows of a source, malformed ones skipped if the recipe says so."""
    bad = BadRows(source)
    check = partial(_check, source=source, text=spec.text)
    rows = load_rows(
        source, recipe_dir=context.recipe_dir, inputs=context.inputs, seed=context.seed, check=check, bad=bad
    )
    if bad.skipped:
        context.say(f"{context.name}: {bad}")
    return rows


def _check(row: Row, where: str, *, source: DataSource, text: bool) -> None:
    check_row(row, source, where, kind="sft", text=text)


def _document(chat: ChatFormat, row: Row, spec: Sft) -> Sample:
    ids = chat.document_ids(row["text"])[: spec.max_length]
    mask = np.ones(len(ids), np.float32)
    mask[0] = 0
    return Sample(ids=ids, loss_mask=mask)


def _messages(row: Row, source: DataSource, number: int) -> list[dict[str, Any]]:
    """A row as a conversation whose last turn is the assistant's, its flag on the last user turn."""
    where = f"{source.source}:{number}"
    messages = list(row_messages(row, where))
    check_response(row, messages, where)
    if "response" in row:
        split = split_thinking(row["response"])
        messages.append({"role": "assistant", "reasoning_content": split.thinking, "content": split.answer})
    last = messages[-1]
    if CLOSE in (last.get("content") or "") and not last.get("reasoning_content"):  # thinking written into the text
        split = split_thinking(last["content"])
        messages[-1] = {**last, "reasoning_content": split.thinking, "content": split.answer}
    flag = _flag(row, source, number)
    if source.flag == "mixed" and flag_in_force(messages):
        flag = None  # a dialogue that has flags of its own was answered by them
    if flag:
        messages = [*with_flag(messages[:-1], flag), messages[-1]]  # type: ignore[list-item]
    return messages


def _flag(row: Row, source: DataSource, number: int) -> str | None:
    if source.flag != "mixed":
        return source.flag
    if row.get("mode") in ("no_think", "closed"):
        return "/no_think"
    return None if number % NO_FLAG_SHARE == 0 else "/think"


class Earlier:
    """Conversations of one question and its answer, drawn by the weights of their sources, as batches are.

    Drawn by rows, a large non-thinking source would fill nearly all histories, and a turn without a flag would come
    to mean: don't think.
    """

    def __init__(self, conversations: Sequence[Sequence[Conversation]], weights: Sequence[float]) -> None:
        short = [[c for c in source if len(c) == 2 and not c[1].get("tool_calls")] for source in conversations]
        self.pools = [pool for pool in short if pool]
        shares = np.array([w for w, pool in zip(weights, short, strict=True) if pool])
        self.shares = shares / shares.sum()

    def draw(self, n: int, rng: np.random.Generator) -> list[Conversation]:
        """`n` conversations, independently."""
        pools = [self.pools[int(i)] for i in rng.choice(len(self.pools), size=n, p=self.shares)]
        return [pool[int(rng.integers(len(pool)))] for pool in pools]


def _dialogue(messages: Conversation, earlier: Earlier, rng: np.random.Generator) -> Conversation:
    """Put one or two other conversations in front; the last turn keeps its mode.

    A turn without a flag inherits the last flag met (report, 4.3): a thinking turn that would inherit /no_think says
    /think, and half of the turns whose flag only repeats what is in force lose it, so that inheriting is trained too.
    """
    history = [m for conversation in earlier.draw(int(rng.integers(1, 3)), rng) for m in conversation]
    inherited, own = flag_in_force(history), flag_in_force(messages)
    question, answer = messages[:-1], messages[-1]
    if own is None and inherited == "no_think":
        question = list(with_flag(question, "/think"))  # type: ignore[arg-type]
    elif own is not None and own == inherited and len(question) == 1 and rng.random() < INHERITED_SHARE:
        question = list(without_flag(question, f"/{own}"))  # type: ignore[arg-type]
    return [*history, *question, answer]
