"""Evaluation: avg@k and pass@k, think form, mode following, accuracy by thinking budget.

Rows: {suite, mode, metric, value, low, high, n}. `n` is the number of questions, told apart by their ids. Every
completion stands in completions.parquet, under `ask` (the mode, with its budget or turn), for paired comparisons.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from posttrain.configs.schema import Evaluate, Suite
from posttrain.stages.context import StageContext, StageResult
from posttrain.stages.data.context_fit import Fit
from posttrain.stages.data.load import derive_seed, load_prompts
from posttrain.stages.data.store import write_rows
from posttrain.stages.evaluation.intervals import completion_table, pass_at, score_table, summary
from posttrain.stages.evaluation.mode_following import follow, follow_rows
from posttrain.stages.rollout.scoring import collect, load_policy, rollout_rows
from posttrain.thinking import split_thinking
from posttrain.types import Completion, Group, Mode, Prompt, Row, SamplingParams, ScoredGroup

TABLE = "table.json"
THINKING, NON_THINKING = (0.6, 0.95, 20), (0.7, 0.8, 20)
"""Temperature, top-p and top-k of the report's evaluations (4.6). Its presence penalty isn't in our engines."""

Asked = dict[str, list[ScoredGroup]]
"""What was asked, by mode, and budget or turn."""


def run(context: StageContext) -> StageResult:
    """Evaluate the stage's model on its suites."""
    spec: Evaluate = context.spec
    pool, _ = load_policy(context, spec.model)
    rows: list[Row] = []
    kept: list[dict[str, object]] = []
    context.progress.start(len(spec.suites), unit="suite")
    for suite in spec.suites:
        context.check_stop()
        prompts = _prompts(context, suite)
        measure: Callable[..., tuple[list[Row], Asked]] = {
            "reward": _reward, "mode_following": _mode_following, "budget": _budget
        }[suite.measure]  # fmt: skip
        found, groups = measure(context, suite, prompts)
        rows += [{"suite": suite.name, **row} for row in found]
        for ask, scored in groups.items():
            kept += [{"suite": suite.name, "ask": ask, **row} for row in rollout_rows(scored, versions=False)]
        headline = next((r for r in found if r["metric"].split("@")[0] in ("accuracy", "turns")), None)
        context.progress.advance(1, f"{suite.name} {headline['value']:.3f}" if headline else suite.name)
    pool.free()
    table = {"rows": rows}
    (context.artifact_dir / TABLE).write_text(json.dumps(table, indent=1), encoding="utf-8")
    write_rows(context.artifact_dir, kept, "completions.parquet")
    metrics = {f"{r['suite']}:{r['mode']}:{r['metric']}": float(r["value"]) for r in rows}
    return StageResult(kind="table", metrics=metrics, provenance={"suites": [s.name for s in spec.suites]})


def _prompts(context: StageContext, suite: Suite) -> list[Prompt]:
    # The questions depend on the suite alone, so that every stage is asked the same ones.
    sources = load_prompts(suite.prompts, locations=context.locations, seed=derive_seed("suite", suite.name))
    prompts = [p for source in sources for p in source]
    made = any(source.source in context.inputs for source in suite.prompts)  # others were checked before the run
    if made and suite.measure != "mode_following":  # a dialogue's turns share a room
        Fit.of(context, context.spec.model, suite.sampling.max_tokens).check(prompts, f"suite {suite.name}")
    return prompts


def with_mode(prompts: Sequence[Prompt], mode: Mode) -> list[Prompt]:
    """The prompts asked in `mode`; `default` leaves each its own."""
    return list(prompts) if mode == "default" else [Prompt(**{**p.__dict__, "mode": mode}) for p in prompts]


def suite_params(suite: Suite, mode: str, thinking_budget: int | None = None) -> SamplingParams:
    """How the suite asks in `mode`: as it says, or by the report's settings where it gives no temperature."""
    given = suite.sampling
    settings = NON_THINKING if mode in ("no_think", "closed") else THINKING
    temperature, top_p, top_k = settings if given.temperature is None else (given.temperature, 1.0, 0)
    return SamplingParams(
        max_tokens=given.max_tokens,
        temperature=temperature,
        top_p=top_p if given.top_p is None else given.top_p,
        top_k=top_k if given.top_k is None else given.top_k,
        thinking_budget=given.thinking_budget if thinking_budget is None else thinking_budget,
    )


def _ask(
    context: StageContext, suite: Suite, prompts: Sequence[Prompt], params: SamplingParams, label: str
) -> list[ScoredGroup]:
    seed = derive_seed("evaluate", context.seed, suite.name, label)
    with context.workers.scorer(suite.rewards, context.locations) as scorer:
        pool, environments = context.workers.rollout(), context.workers.environment
        return collect(pool, scorer, prompts, suite.k, params, seed=seed, environments=environments)


def _reward(context: StageContext, suite: Suite, prompts: list[Prompt]) -> tuple[list[Row], Asked]:
    rows: list[Row] = []
    asked: Asked = {}
    for mode in suite.modes:
        scored = asked[mode] = _ask(context, suite, with_mode(prompts, mode), suite_params(suite, mode), mode)
        values = score_table(scored)
        rows.append(summary(mode, "accuracy", values))
        for k in suite.pass_at or ((suite.k,) if suite.k > 1 else ()):
            rows.append(summary(mode, f"pass@{k}", pass_at(values, k)))
        rows += [
            summary(mode, "no_verdict", np.isnan(values)),
            summary(mode, "think_format", completion_table(scored, _well_formed)),
            summary(mode, "tokens", completion_table(scored, lambda c: float(c.spoken))),
            summary(mode, "truncated", completion_table(scored, lambda c: float(c.finish_reason == "length"))),
        ]
        for metric, of in (("accuracy/task", "task"), ("accuracy", "domain")):
            names = sorted({str(getattr(p, of)) for p in prompts} - ({""} if of == "domain" else set()))
            for name in names if len(names) > 1 else ():
                mine = np.array([getattr(g.group.prompt, of) == name for g in scored])
                rows.append(summary(mode, f"{metric}/{name}", values[mine]))
    return rows, asked


def _budget(context: StageContext, suite: Suite, prompts: list[Prompt]) -> tuple[list[Row], Asked]:
    """Accuracy at each thinking budget (report, Figure 2), all on the same questions."""
    rows: list[Row] = []
    asked: Asked = {}
    for mode in suite.modes:
        for budget in suite.budgets:
            ask, params = f"{mode}@{budget}", suite_params(suite, mode, budget)
            scored = asked[ask] = _ask(context, suite, with_mode(prompts, mode), params, ask)
            rows.append({**summary(mode, f"accuracy@{budget}", score_table(scored)), "budget": budget})
    return rows, asked


def _mode_following(context: StageContext, suite: Suite, prompts: list[Prompt]) -> tuple[list[Row], Asked]:
    """ThinkFollow (report, 4.7): is the mode right at each turn of a dialogue?"""

    def ask(turn: int, mode: Mode, asked: Sequence[Prompt]) -> Iterator[Group]:
        seed = derive_seed("evaluate", context.seed, suite.name, turn, *(["closed"] if mode == "closed" else []))
        return context.workers.rollout().generate(asked, 1, suite_params(suite, mode), seed=seed)

    passed, asked = follow(prompts, ask)
    return follow_rows(prompts, passed), asked


def _well_formed(completion: Completion) -> float:
    return float(split_thinking(completion.last_turn).well_formed)
