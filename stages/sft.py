"""Supervised fine-tuning on a weighted mixture: long-CoT cold start, thinking-mode fusion, off-policy distillation.

For what becomes of a row, see `data/training_rows.py`; for what fusion makes of it, `data/fusion.py`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from posttrain.configs.schema import Sft
from posttrain.stages.context import StageContext, StageResult
from posttrain.stages.data.batch_schedule import BatchSchedule
from posttrain.stages.data.training_rows import build_sources
from posttrain.stages.learner.losses.losses import CrossEntropy
from posttrain.stages.learner.ranks import Learner
from posttrain.stages.learner.session import TrainingSession
from posttrain.stages.models.chat import ChatFormat
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
