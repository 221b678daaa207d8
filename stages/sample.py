"""Responses of a model to prompts, verified and filtered: cold-start candidates, rejection sampling for fusion (the
stage-2 model answers the stage-1 queries itself; report, 4.3), teacher outputs in both modes (4.5).

`builtin:oracle` is no model: it writes out the worked solution that rows of builtin:arithmetic and of some
reasoning_gym tasks carry.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from posttrain.configs.schema import Sample
from posttrain.errors import DataError
from posttrain.stages.context import StageContext, StageResult
from posttrain.stages.data.filters import FILTERS
from posttrain.stages.data.load import derive_seed, load_all
from posttrain.stages.data.store import write_rows
from posttrain.stages.rollout.collect import ScoredGroup, collect, load_policy, sampling_params
from posttrain.types import Completion, Group, Message, Prompt

BATCH = 128
ORACLE = "builtin:oracle"


def run(context: StageContext) -> StageResult:
    """Write the kept responses as rows {messages, response, mode, ...} and say why others were dropped."""
    spec: Sample = context.spec
    prompts = [p for source in load_all(context, spec.prompts, spec.mode) for p in source]
    oracle = spec.model.source == ORACLE
    made_by: dict[str, object] = {}
    reasons: Counter[str] = Counter()
    if oracle:
        prompts = with_solutions(prompts, context.name, reasons)
    else:
        _, chat = load_policy(context, spec.model)
        made_by = chat.fingerprint()
    rows: list[dict[str, object]] = []
    failed: list[dict[str, object]] = []
    context.progress.start(len(prompts), unit="prompt")
    with context.workers.scorer(spec.rewards) as scorer:
        for start in range(0, len(prompts), BATCH):
            if spec.limit is not None and len(rows) >= spec.limit:
                break
            part = prompts[start : start + BATCH]
            if oracle:
                groups = [oracle_group(p) for p in part]
                scored = [
                    ScoredGroup(group=g, scores=tuple(scorer.score([(g.prompt, c) for c in g.completions])))
                    for g in groups
                ]
            else:
                seed = derive_seed(context.seed, context.name, start)
                pool = context.workers.rollout()
                scored = collect(
                    pool, scorer, part, spec.n, sampling_params(spec.sampling),
                    seed=seed, environments=context.workers.environment,
                )  # fmt: skip
            for group in scored:
                kept = select(group, spec, reasons)
                rows += kept
                if not kept:
                    failed.append(_row(group.group.prompt, ""))
            context.progress.advance(len(part), f"{len(rows)} kept")
            if start + BATCH < len(prompts):
                context.check_stop()
    if not oracle:
        context.workers.rollout().free()
    rows = rows[: spec.limit]
    context.say(f"{context.name}: kept {len(rows)} responses to {len(prompts)} prompts; dropped: {dict(reasons)}")
    if not rows:
        raise DataError(f"no response passed the filters: {dict(reasons)}", where=context.name)
    write_rows(context.artifact_dir, rows)
    if failed:  # queries that always fail, for a person to review
        write_rows(context.artifact_dir, failed, "review.parquet")
    metrics = {"rows": float(len(rows)), "dropped": float(sum(reasons.values())), "failed_prompts": float(len(failed))}
    return StageResult(
        kind="data", metrics=metrics, provenance={"dropped": dict(reasons), "rows": len(rows), **made_by}
    )


def select(scored: ScoredGroup, spec: Sample, reasons: Counter[str]) -> list[dict[str, object]]:
    """The first `take` responses that pass every filter, shortest first; each drop is counted by its reason."""
    prompt = scored.group.prompt
    passed: list[Completion] = []
    for completion, score in zip(scored.group.completions, scored.scores, strict=True):
        reason = next((r for name in spec.filters if (r := FILTERS[name](prompt, completion, score))), None)
        if reason:
            reasons[reason] += 1
        elif completion.text not in [c.text for c in passed]:
            passed.append(completion)
    passed.sort(key=lambda c: (len(c.token_ids), c.index))
    return [_row(prompt, c.last_turn, c.turns[:-1]) for c in passed[: spec.take]]


def _row(prompt: Prompt, response: str, turns: Sequence[Message] = ()) -> dict[str, object]:
    columns = {k: v for k, v in prompt.columns.items() if k not in ("response", "solution")}
    return {
        **columns,
        "messages": [dict(m) for m in (*prompt.messages, *turns)],
        "task": prompt.task,
        "domain": prompt.domain,
        "mode": prompt.mode,
        "response": response,
    }


def with_solutions(prompts: list[Prompt], where: str, reasons: Counter[str]) -> list[Prompt]:
    """The prompts that carry a worked solution; the others are counted as dropped.

    Raises:
        DataError: none carries one.
    """
    kept = [p for p in prompts if p.columns.get("solution")]
    if not kept:
        raise DataError(
            f"{ORACLE} needs the column `solution`, and no row has it",
            where=where,
            fix="use builtin:arithmetic, or a task of stages/data/worked.py",
        )
    if len(kept) < len(prompts):  # reasoning_gym's answer isn't what the steps lead to, for one
        reasons["no worked solution"] += len(prompts) - len(kept)
    return kept


def oracle_group(prompt: Prompt) -> Group:
    """The worked solution that a row carries, in Qwen3's form."""
    text = f"<think>\n{prompt.columns['solution']}\n</think>\n\n\\boxed{{{prompt.columns['answer']}}}"
    empty = np.zeros(0)
    completion = Completion(
        prompt_id=prompt.id, index=0, prompt_ids=empty.astype(np.int64), token_ids=empty.astype(np.int64), text=text,
        sources=empty.astype(np.int8), logprobs=empty.astype(np.float32), versions=empty.astype(np.int32),
        finish_reason="stop",
    )  # fmt: skip
    return Group(prompt=prompt, completions=(completion,))
