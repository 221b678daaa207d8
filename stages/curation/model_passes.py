"""What models say of queries, batch by batch: a judge, the answers without thinking, the pass rate.

Each step sees what the one before left. A finished batch is kept, so that an interrupted stage goes on behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np

from posttrain.configs.schema import Curate, ModelSource, Sampling
from posttrain.stages.context import StageContext
from posttrain.stages.curation.domains import domain_of
from posttrain.stages.curation.query_judge import JUDGED, judged_domains, judged_verifiable
from posttrain.stages.data.context_fit import Fit, answered
from posttrain.stages.data.load import derive_seed
from posttrain.stages.data.part_store import Parts
from posttrain.stages.rollout.scoring import collect, load_policy, sampling_params
from posttrain.stages.serving.stage_judge import chat_client
from posttrain.types import Mode, Prompt

BATCH = 256
"""Prompts between two signs of progress."""

EASY = "answered correctly without thinking"
TOO_HARD, TOO_EASY, NO_VERDICT = "too hard", "too easy", "no verdict"
TOO_LONG, ANSWERED = "too long for the model that answers", "ends with an answer"

Placed = tuple[int, Prompt]
Values = list[Any]


@dataclass(kw_only=True)
class Measured:
    """By the place of a row: reasons against it, its pass rate, its domain."""

    reasons: dict[int, str] = field(default_factory=dict)
    rates: dict[int, float] = field(default_factory=dict)
    domains: dict[int, str] = field(default_factory=dict)
    unjudged: int = 0
    """Queries of which the judge gave no verdict; the rules' word stands."""


def measure(context: StageContext, spec: Curate, prompts: Callable[[], Iterator[Placed]]) -> Measured:
    """Ask whatever models the recipe names about `prompts()`, which is read once a step."""
    found = Measured()

    def left() -> Iterator[Placed]:
        return ((place, prompt) for place, prompt in prompts() if place not in found.reasons)

    if spec.judge is not None:
        _judge(context, spec, left, found)
    if spec.without_thinking is not None:
        _without_thinking(context, spec, left, found)
    if spec.model is not None:
        fitting = _fitting(context, spec.model, spec.sampling, left(), found)
        for place, rate in pass_rates(context, spec, fitting):
            if rate is None:
                found.reasons[place] = NO_VERDICT
                continue
            found.rates[place] = rate
            low, high = spec.keep.pass_rate
            if not low <= rate <= high:
                found.reasons[place] = f"{TOO_HARD if rate < low else TOO_EASY}: pass rate {rate:.2f}"
    return found


def pass_rates(context: StageContext, spec: Curate, prompts: Iterable[Placed]) -> Iterator[tuple[int, float | None]]:
    """The share of `n` completions that the rewards pay, a query; None without any verdict."""
    assert spec.model is not None
    return _rates(context, spec, spec.model, prompts, "pass rate", n=spec.n, sampling=spec.sampling)


def _judge(context: StageContext, spec: Curate, left: Callable[[], Iterator[Placed]], found: Measured) -> None:
    assert spec.judge is not None
    with chat_client(context, spec.judge) as client:

        def ask(batch: list[Prompt]) -> Values:
            verdicts = judged_verifiable(client, batch) if spec.rules else [True] * len(batch)
            open_ = [i for i, p in enumerate(batch) if spec.domains.judge and not domain_of(p, spec.domains)]
            named = judged_domains(client, [batch[i] for i in open_], spec.domains.judge) if open_ else []
            domains = dict(zip(open_, named, strict=True))
            return [[verdict, domains.get(i)] for i, verdict in enumerate(verdicts)]

        for place, (verifiable, domain) in _batches(context, left(), "judge", lambda batch, number: ask(batch)):
            if verifiable is False:
                found.reasons[place] = JUDGED
            found.unjudged += verifiable is None
            if domain:
                found.domains[place] = domain


def _without_thinking(
    context: StageContext, spec: Curate, left: Callable[[], Iterator[Placed]], found: Measured
) -> None:
    asked = spec.without_thinking
    assert asked is not None
    model = asked.model or spec.model
    assert model is not None
    fitting = _fitting(context, model, asked.sampling, left(), found, asked.mode)
    for place, rate in _rates(
        context, spec, model, fitting, "without thinking", n=asked.n, sampling=asked.sampling, mode=asked.mode
    ):
        if rate is not None and rate >= asked.at_least:
            found.reasons[place] = f"{EASY}: {rate:.0%} of {asked.n}"


def _fitting(
    context: StageContext,
    model: ModelSource,
    sampling: Sampling,
    prompts: Iterable[Placed],
    found: Measured,
    mode: Mode | None = None,
) -> Iterator[Placed]:
    """The prompts that the model can answer; of the others it says why not."""
    fit = Fit.of(context, model, sampling.max_tokens)
    for place, prompt in prompts:
        if fit.wrong(replace(prompt, mode=mode) if mode else prompt):
            found.reasons[place] = ANSWERED if answered(prompt) else TOO_LONG
        else:
            yield place, prompt


def _rates(
    context: StageContext,
    spec: Curate,
    model: ModelSource,
    prompts: Iterable[Placed],
    step: str,
    *,
    n: int,
    sampling: Sampling,
    mode: Mode | None = None,
) -> Iterator[tuple[int, float | None]]:
    with ExitStack() as stack:
        loaded: list[Any] = []

        def ask(batch: list[Prompt], number: int) -> Values:
            if not loaded:  # the first batch that wasn't kept
                loaded.extend(stack.enter_context(_loaded(context, spec, model)))
            pool, scorer = loaded
            asked = [replace(p, mode=mode) for p in batch] if mode else batch
            scored = collect(
                pool, scorer, asked, n, sampling_params(sampling),
                seed=derive_seed(context.seed, context.name, step), environments=context.workers.environment,
            )  # fmt: skip
            values = [[s.value for s in group.scores if s.value is not None] for group in scored]
            return [float(np.mean(v)) if v else None for v in values]

        yield from _batches(context, prompts, step, ask)


@contextmanager
def _loaded(context: StageContext, spec: Curate, model: ModelSource) -> Iterator[tuple[Any, Any]]:
    pool, _ = load_policy(context, model)
    try:
        with context.workers.scorer(spec.rewards, context.locations) as scorer:
            yield pool, scorer
    finally:
        pool.free()


def _batches(
    context: StageContext, prompts: Iterable[Placed], step: str, ask: Callable[[list[Prompt], int], Values]
) -> Iterator[tuple[int, Any]]:
    """A value a prompt, asked for in batches or read back."""
    parts = Parts(context.dir / "scan" / step.replace(" ", "-"))
    source = iter(prompts)
    number = 0
    context.progress.start(0, unit="prompt")
    while batch := list(islice(source, BATCH)):
        values = parts.get(number)
        if values is None:
            context.check_stop()
            values = ask([prompt for _, prompt in batch], number)
            parts.put(number, values)
        context.progress.advance(len(batch), step)
        yield from zip((place for place, _ in batch), values, strict=True)
        number += 1
