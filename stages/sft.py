"""Supervised fine-tuning on a weighted mixture: long-CoT cold start, thinking-mode fusion, off-policy distillation.

What fusion makes of a row stands in `data/fusion.py`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import count
from pathlib import Path
from typing import Protocol

import numpy as np

from posttrain.configs.schema import DataSource, Sft
from posttrain.errors import DataError
from posttrain.stages.context import StageContext, StageResult
from posttrain.stages.data.chat import ChatFormat
from posttrain.stages.data.files import BadRows
from posttrain.stages.data.fusion import Earlier, Example, dialogue, example, targets
from posttrain.stages.data.load import Row, check_row, derive_seed, patient, read
from posttrain.stages.data.schedule import BatchSchedule
from posttrain.stages.learner.group import Learner
from posttrain.stages.learner.losses import CrossEntropy
from posttrain.stages.learner.session import TrainingSession
from posttrain.types import Sample


def run(context: StageContext) -> StageResult:
    """Train the stage's model on its data."""
    spec: Sft = context.spec
    session = TrainingSession.start(context, spec.steps)
    sources = build_sources(context, session.chat, spec)
    schedule = BatchSchedule(sources, [d.weight for d in spec.data], size=spec.batch_size, seed=context.seed)
    rows = sum(map(len, sources))
    if spec.epochs is not None:
        session.settle(steps_of(spec.epochs, rows, spec.batch_size))
    if spec.batch_size > rows:
        context.say(f"{context.name}: warning: a step takes some rows more than once: they are fewer than batch_size")
    tokens = sum(s.tokens for source in sources for s in source)
    context.say(f"{context.name}: {rows} rows, {tokens} tokens, {session.total} steps of {spec.batch_size}")
    held_out = held_out_samples(context, session.chat, spec)
    for step in session.steps():
        started = time.monotonic()
        metrics = session.learner.step(schedule.batch(step), CrossEntropy(), step=step, micro_tokens=spec.micro_tokens)
        metrics["seconds_train"] = time.monotonic() - started
        metrics["epoch"] = (step + 1) * spec.batch_size / rows
        note = f"loss {metrics['loss']:.3f}"
        if spec.validation and ((step + 1) % spec.validation.every == 0 or step + 1 == session.total):
            metrics["validation_loss"] = loss_of(held_out, session.learner, spec.micro_tokens)
            note += f"  validation {metrics['validation_loss']:.3f}"
        session.end_step(step, metrics, note)
    return session.finish("loss", "validation_loss", rows=float(rows), steps=float(session.total))


def held_out_samples(context: StageContext, chat: ChatFormat, spec: Sft) -> list[Sample]:
    """The rows of `validation`, made into samples as those that are learnt, without others in front."""
    if spec.validation is None:
        return []
    of_them = spec.model_copy(update={"data": spec.validation.data, "multi_turn": 0.0})
    return [sample for source in build_sources(context, chat, of_them) for sample in source]


def loss_of(samples: Sequence[Sample], learner: Learner, micro_tokens: int) -> float:
    """Nats a target token in the mean over all samples, as the training loss has it."""
    found = learner.logprobs(samples, micro_tokens=micro_tokens)
    weights = [sample.loss_mask * sample.weight for sample in samples]
    total = sum(float(np.dot(logprobs, weight)) for logprobs, weight in zip(found, weights, strict=True))
    return -total / sum(float(weight.sum()) for weight in weights)


def steps_of(epochs: float, rows: int, batch_size: int) -> int:
    """The steps that take so many rows `epochs` times, the last one perhaps more.

    >>> steps_of(1.1, 100, 10)
    11
    """
    return math.ceil(Fraction(str(epochs)) * rows / batch_size)


Pair = tuple[Example, Example]
"""A row alone, and as it is trained: with other rows in front, or the same again."""


class Reading(Protocol):
    """What of a stage's context its data depend on: `posttrain data show` has no more."""

    @property
    def name(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def recipe_dir(self) -> Path: ...
    @property
    def inputs(self) -> Mapping[str, Path]: ...
    def say(self, text: str, /) -> None: ...


def build_sources(context: Reading, chat: ChatFormat, spec: Sft) -> list[list[Sample]]:
    """The training samples of each source.

    Raises:
        DataError: a row has nothing to learn from or is longer than max_length, with its place; or more rows than
            max_bad_share are, where they are skipped.
    """
    if spec.text:
        return [_documents(context, chat, spec, source) for source in spec.data]
    return [_samples(context, chat, spec, *part) for part in conversations(context, spec)]


def conversations(context: Reading, spec: Sft) -> list[tuple[BadRows, list[Pair]]]:
    """The rows of each source, as they are and with what other rows put in front of some; and the malformed ones.

    Raises:
        DataError: as `build_sources`, lengths aside.
    """
    bad = [BadRows(patient(context, source)) for source in spec.data]
    tables = [_examples(context, counted) for counted in bad]
    earlier = Earlier(tables, [source.weight for source in spec.data])
    rng = np.random.default_rng(derive_seed(context.seed, context.name, "dialogues"))

    def joined(row: Example) -> Example:
        return dialogue(row, earlier, rng) if earlier.pools and rng.random() < spec.multi_turn else row

    return [(counted, [(row, joined(row)) for row in rows]) for counted, rows in zip(bad, tables, strict=True)]


def _samples(context: Reading, chat: ChatFormat, spec: Sft, bad: BadRows, pairs: list[Pair]) -> list[Sample]:
    found: list[Sample] = []
    lost = 0
    for row, joined in pairs:
        samples, contradicting = render(chat, spec, row, joined)
        lost += contradicting
        longest = max(sample.tokens for sample in samples)
        if longest > spec.max_length:
            bad.turned_out(too_long(longest, spec, row.where))
        else:
            found += samples
    bad.settle()
    if lost:
        context.say(f"{context.name}: {lost} earlier turns are no targets: their thinking is lost")
    if bad.skipped:
        context.say(f"{context.name}: {bad}")
    if not found:
        raise DataError("no row is left to learn from", where=bad.source.source)
    return found


def too_long(tokens: int, spec: Sft, where: str) -> DataError:
    """What is said of a row of `tokens` tokens, where that is more than the stage takes."""
    return DataError(
        f"{tokens} tokens, more than max_length={spec.max_length}", where=where, fix="raise max_length, or cut the row"
    )


def render(chat: ChatFormat, spec: Sft, row: Example, joined: Example) -> tuple[list[Sample], int]:
    """A row's samples, and how many of its turns are no targets; alone, if what is in front makes it too long."""
    if spec.turns == "all" and not joined.closed:
        samples, left = [chat.conversation(joined.messages, joined.tools)], 0
    else:
        chosen, left = targets(joined, spec.turns)
        samples = [chat.last_turn(messages, joined.tools, closed=joined.closed) for messages in chosen]
    if joined is not row and any(sample.tokens > spec.max_length for sample in samples):
        return render(chat, spec, row, row)
    return samples, left


def _examples(context: Reading, bad: BadRows) -> list[Example]:
    source, numbers = bad.source, count(1)
    assert isinstance(source, DataSource)
    seed = row_seed(context, source)

    def make(row: Row, where: str) -> Example:
        check_row(row, source, where, kind="sft")
        return example(row, source, where, next(numbers), seed)

    return list(read(source, make, recipe_dir=context.recipe_dir, inputs=context.inputs, seed=context.seed, bad=bad))


def row_seed(context: Reading, source: DataSource) -> int:
    """What `fusion.example` draws a source's flags and switches by."""
    return derive_seed(context.seed, context.name, source.source) % 2**32


def _documents(context: Reading, chat: ChatFormat, spec: Sft, source: DataSource) -> list[Sample]:
    bad = BadRows(source)

    def make(row: Row, where: str) -> Sample:
        check_row(row, source, where, kind="sft", text=True)
        ids = chat.document_ids(row["text"])[: spec.max_length]
        mask = np.ones(len(ids), np.float32)
        mask[0] = 0
        return Sample(ids=ids, loss_mask=mask)

    found = list(read(source, make, recipe_dir=context.recipe_dir, inputs=context.inputs, seed=context.seed, bad=bad))
    if bad.skipped:
        context.say(f"{context.name}: {bad}")
    return found
