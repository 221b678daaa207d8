"""Query curation: pass rates by a model, a pass-rate window, no duplicates, nothing that another stage used.

The report's reasoning RL (4.2) takes queries that the cold start didn't use, that are learnable for its model, and
as challenging as possible: a window on pass@n, the hardest first where there is a limit.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from posttrain.configs.schema import Curate
from posttrain.errors import DataError
from posttrain.stages.context import StageContext, StageResult
from posttrain.stages.data.content import content
from posttrain.stages.data.load import derive_seed, load_all
from posttrain.stages.data.store import write_rows
from posttrain.stages.rollout.collect import collect, load_policy, sampling_params
from posttrain.types import Prompt

BATCH = 256  # prompts between two signs of progress


def run(context: StageContext) -> StageResult:
    """Write the kept prompts as a data set, and every drop with its reason beside it."""
    spec: Curate = context.spec
    prompts = [p for source in load_all(context, spec.prompts) for p in source]
    used = {content(p) for source in load_all(context, spec.exclude) for p in source}
    reasons: dict[str, str] = {}
    kept: list[Prompt] = []
    seen: set[str] = set()
    for prompt in prompts:
        text = content(prompt)
        if text in used:
            reasons[prompt.id] = "used by an excluded source"
        elif text in seen:
            reasons[prompt.id] = "duplicate"
        else:
            kept.append(prompt)
        seen.add(text)
    rates = pass_rates(context, kept) if spec.model is not None else {}
    low, high = spec.keep.pass_rate
    for prompt in kept:
        rate = rates.get(prompt.id)
        if rate is not None and not low <= rate <= high:
            reasons[prompt.id] = "too hard" if rate < low else "too easy"
        elif spec.model is not None and rate is None:
            reasons[prompt.id] = "no verdict"
    kept = [p for p in kept if p.id not in reasons]
    if spec.limit is not None:
        ordered = sorted(kept, key=lambda p: rates.get(p.id, 0.0))  # the hardest first
        reasons |= {p.id: "over the limit" for p in ordered[spec.limit :]}
        kept = [p for p in kept if p.id not in reasons]
    counts = Counter(reasons.values())
    context.say(f"{context.name}: kept {len(kept)} of {len(prompts)}; dropped: {dict(counts) or 'none'}")
    if not kept:
        measured = any(reason.startswith("too") for reason in reasons.values())
        fix = "widen keep.pass_rate" if measured else "give it prompts that no excluded source holds"
        raise DataError(f"no prompt is left of {len(prompts)}: {dict(counts)}", where=context.name, fix=fix)
    write_rows(context.artifact_dir, [as_row(p, rates.get(p.id)) for p in kept])
    if reasons:
        dropped = [p for p in prompts if p.id in reasons]
        rows = [{**as_row(p, rates.get(p.id)), "reason": reasons[p.id]} for p in dropped]
        write_rows(context.artifact_dir, rows, "dropped.parquet")
    metrics = {"kept": float(len(kept)), "dropped": float(len(reasons))}
    if rates:
        metrics["pass_rate"] = float(np.mean(list(rates.values())))
    return StageResult(kind="data", metrics=metrics, provenance={"dropped": dict(counts), "rows": len(kept)})


def pass_rates(context: StageContext, prompts: list[Prompt]) -> dict[str, float]:
    """Mean score of `n` completions a prompt; prompts without any verdict are left out."""
    spec: Curate = context.spec
    assert spec.model is not None
    pool, _ = load_policy(context, spec.model)
    params = sampling_params(spec.sampling)
    rates = {}
    context.progress.start(len(prompts), unit="prompt")
    with context.workers.scorer(spec.rewards) as scorer:
        for start in range(0, len(prompts), BATCH):
            part = prompts[start : start + BATCH]
            seed = derive_seed(context.seed, context.name, "pass rate")
            environments = context.workers.environment
            for scored in collect(pool, scorer, part, spec.n, params, seed=seed, environments=environments):
                values = [s.value for s in scored.scores if s.value is not None]
                if values:
                    rates[scored.group.prompt.id] = float(np.mean(values))
            context.progress.advance(len(part))
            if start + BATCH < len(prompts):
                context.check_stop()
    pool.free()
    return rates


def as_row(prompt: Prompt, rate: float | None) -> dict[str, object]:
    """A prompt as a row that `load_rows` reads back."""
    row: dict[str, object] = {**prompt.columns, "id": prompt.id, "messages": [dict(m) for m in prompt.messages]}
    row |= {"task": prompt.task, "domain": prompt.domain, "mode": prompt.mode}
    return row if rate is None else {**row, "pass_rate": rate}
