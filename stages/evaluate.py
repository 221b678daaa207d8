"""Evaluation: pass@1 and avg@k, pass@k, think form, mode following, accuracy by thinking budget; 95 % intervals by a
bootstrap over questions (samples of one question aren't independent).

Rows: {suite, mode, metric, value, low, high, n}. `n` is the number of questions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posttrain.configs.schema import Evaluate, Suite
from posttrain.stages.context import StageContext, StageResult
from posttrain.stages.data.load import derive_seed, load_prompts
from posttrain.stages.data.store import write_rows
from posttrain.stages.rollout.collect import ScoredGroup, collect, load_policy, rollout_rows, sampling_params
from posttrain.thinking import split_thinking
from posttrain.types import Completion, Mode, Prompt, SamplingParams, Score

RESAMPLES = 1000
TABLE = "table.json"
Row = dict[str, Any]


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
        measure: Callable[..., tuple[list[Row], list[ScoredGroup]]] = {
            "reward": _reward, "mode_following": _mode_following, "budget": _budget
        }[suite.measure]  # fmt: skip
        found, groups = measure(context, suite, prompts)
        rows += [{"suite": suite.name, **row} for row in found]
        kept += [{"suite": suite.name, **row} for row in rollout_rows(groups, versions=False)]
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
    sources = load_prompts(
        suite.prompts, recipe_dir=context.recipe_dir, inputs=context.inputs, seed=derive_seed("suite", suite.name)
    )
    return [p for source in sources for p in source]


def with_mode(prompts: Sequence[Prompt], mode: Mode) -> list[Prompt]:
    """The prompts asked in `mode`; `default` leaves each its own."""
    return list(prompts) if mode == "default" else [Prompt(**{**p.__dict__, "mode": mode}) for p in prompts]


def _ask(
    context: StageContext, suite: Suite, prompts: Sequence[Prompt], params: SamplingParams, label: str
) -> list[ScoredGroup]:
    seed = derive_seed("evaluate", context.seed, suite.name, label)
    with context.workers.scorer(suite.rewards) as scorer:
        pool, environments = context.workers.rollout(), context.workers.environment
        return collect(pool, scorer, prompts, suite.k, params, seed=seed, environments=environments)


def _reward(context: StageContext, suite: Suite, prompts: list[Prompt]) -> tuple[list[Row], list[ScoredGroup]]:
    rows, everything = [], []
    for mode in suite.modes:
        scored = _ask(context, suite, with_mode(prompts, mode), sampling_params(suite.sampling), mode)
        everything += scored
        values = score_table(scored)
        rows += [summary(mode, "accuracy", values)]
        if suite.k > 1:
            rows += [summary(mode, f"pass@{suite.k}", passed_once(values))]
        rows += [
            summary(mode, "think_format", completion_table(scored, _well_formed)),
            summary(mode, "tokens", completion_table(scored, lambda c: float(c.spoken))),
            summary(mode, "truncated", completion_table(scored, lambda c: float(c.finish_reason == "length"))),
        ]
        tasks = sorted({p.task for p in prompts})
        if len(tasks) > 1:
            for task in tasks:
                mine = np.array([g.group.prompt.task == task for g in scored])
                rows.append(summary(mode, f"accuracy/task/{task}", values[mine]))
        domains = sorted({p.domain for p in prompts} - {""})
        if len(domains) > 1:
            for domain in domains:
                mine = np.array([g.group.prompt.domain == domain for g in scored])
                rows.append(summary(mode, f"accuracy/{domain}", values[mine]))
    return rows, everything


def _budget(context: StageContext, suite: Suite, prompts: list[Prompt]) -> tuple[list[Row], list[ScoredGroup]]:
    """Accuracy at each thinking budget (report, Figure 2), all on the same questions."""
    rows, everything = [], []
    for mode in suite.modes:
        for budget in suite.budgets:
            params = sampling_params(suite.sampling, thinking_budget=budget)
            scored = _ask(context, suite, with_mode(prompts, mode), params, f"{mode}@{budget}")
            everything += scored
            rows.append({**summary(mode, f"accuracy@{budget}", score_table(scored)), "budget": budget})
    return rows, everything


def _mode_following(context: StageContext, suite: Suite, prompts: list[Prompt]) -> tuple[list[Row], list[ScoredGroup]]:
    """Multi-turn dialogues with random flags (ThinkFollow, report 4.7): is the mode right at each turn?

    The model answers turn after turn; its own answers, think blocks stripped, are the history. A turn passes iff it
    has one well-formed block, empty iff the last flag met is /no_think.
    """
    pool, params = context.workers.rollout(), sampling_params(suite.sampling)
    turns = len(prompts[0].columns["queries"])
    histories: list[list[dict[str, Any]]] = [[] for _ in prompts]
    passed = np.zeros((len(prompts), turns))
    everything = []
    for turn in range(turns):
        asked = []
        for prompt, history in zip(prompts, histories, strict=True):
            query, flag = prompt.columns["queries"][turn], prompt.columns["flags"][turn]
            history.append({"role": "user", "content": f"{query} {flag}".strip()})
            asked.append(Prompt(id=prompt.id, messages=tuple(history), task=prompt.task, domain=f"turn{turn + 1}"))
        seed = derive_seed("evaluate", context.seed, suite.name, turn)
        groups = {g.prompt.id: g for g in pool.generate(asked, 1, params, seed=seed)}
        for i, prompt in enumerate(asked):
            group = groups[prompt.id]
            split = split_thinking(group.completions[0].text)
            wanted = prompts[i].columns["modes"][turn]
            passed[i, turn] = split.well_formed and split.empty == (wanted == "no_think")
            verdict = Score(value=float(passed[i, turn]), parts={wanted: float(passed[i, turn])})
            everything.append(ScoredGroup(group=group, scores=(verdict,)))
            histories[i].append({"role": "assistant", "content": split.answer})
    rows = [summary("flags", "turns", passed), summary("flags", "dialogues", passed.min(1, keepdims=True))]
    for mode in ("think", "no_think"):
        wanted = np.array([p.columns["modes"] for p in prompts]) == mode
        rows.append(summary("flags", f"turns/{mode}", np.where(wanted, passed, np.nan)))
    return rows, everything


def score_table(scored: Sequence[ScoredGroup]) -> NDArray[np.float64]:
    """Scores, [questions, samples]; nan where there's no verdict."""
    return np.array([[np.nan if s.value is None else s.value for s in g.scores] for g in scored], dtype=float)


def passed_once(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Whether any sample of a question passed, [questions, 1]; nan where none did and one has no verdict."""
    passed = (values >= 1).any(axis=1, keepdims=True)
    unknown = np.isnan(values).any(axis=1, keepdims=True) & ~passed
    return np.where(unknown, np.nan, passed.astype(float))


def completion_table(scored: Sequence[ScoredGroup], of: Callable[[Completion], float]) -> NDArray[np.float64]:
    """A property of each completion, [questions, samples]."""
    return np.array([[of(c) for c in g.group.completions] for g in scored], dtype=float)


def _well_formed(completion: Completion) -> float:
    return float(split_thinking(completion.last_turn).well_formed)


def summary(mode: str, metric: str, values: NDArray[Any]) -> Row:
    """A table row: the mean over questions of each question's mean, and its bootstrap interval."""
    values = np.asarray(values, dtype=float)
    known = values[~np.isnan(values).all(1)]
    means = np.nanmean(known, axis=1) if len(known) else np.zeros(0)
    low, high = bootstrap_interval(means)
    value = float(means.mean()) if len(means) else float("nan")
    return {"mode": mode, "metric": metric, "value": value, "low": low, "high": high, "n": len(means)}


def bootstrap_interval(means: NDArray[np.float64], level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of the mean over questions; nan without questions.

    >>> bootstrap_interval(np.ones(10))
    (1.0, 1.0)
    """
    if not len(means):
        return float("nan"), float("nan")
    rng = np.random.default_rng(0)
    draws = means[rng.integers(len(means), size=(RESAMPLES, len(means)))].mean(1)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
