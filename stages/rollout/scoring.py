"""Groups with their scores: verification runs in threads while the rest is still being generated."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from posttrain.configs.schema import ModelSource, Sampling
from posttrain.stages.context import StageContext
from posttrain.stages.models.chat import ChatFormat, open_chat
from posttrain.stages.models.locations import model_path
from posttrain.stages.models.model_files import ModelSpec
from posttrain.stages.rollout.episodes import Environments, rollouts
from posttrain.stages.rollout.pool import RolloutPool
from posttrain.thinking import split_thinking
from posttrain.types import Completion, Group, Prompt, SamplingParams, ScoredGroup

if TYPE_CHECKING:
    from posttrain.rewards.mixture.mix import Scorer

SCORERS = 16
"""Groups that are scored at a time: more than processors, since most of them wait: a program that sleeps, or a judge of
another host, mustn't hold up those behind it."""


def load_policy(context: StageContext, model: ModelSource) -> tuple[RolloutPool, ChatFormat]:
    """Put a recipe's model into the rollout workers, its hand-over checked.

    Raises:
        HandoverError: the model isn't what the stage before left.
    """
    path, source = model_path(context.locations, model)
    chat = open_chat(path, source.revision)
    pool = context.workers.rollout()
    pool.load(ModelSpec.of(path, source), context.seed)
    return pool, chat


def sampling_params(sampling: Sampling, thinking_budget: int | None = None) -> SamplingParams:
    """The recipe's sampling node as the engine takes it; a budget given here wins."""
    return SamplingParams(
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        thinking_budget=sampling.thinking_budget if thinking_budget is None else thinking_budget,
    )


def collect(
    pool: RolloutPool,
    scorer: Scorer,
    prompts: Sequence[Prompt],
    n: int,
    params: SamplingParams,
    *,
    seed: int,
    environments: Environments,
    step: int = 0,
) -> list[ScoredGroup]:
    """`n` scored completions for each prompt, in the order of `prompts` (whatever finished first).

    `environments` gives the processes of those that prompts name; `step` is what rewards see as
    `trainer_state.global_step`.
    """
    with ThreadPoolExecutor(max_workers=SCORERS) as threads:
        pending = {}
        for group in rollouts(pool, prompts, n, params, seed=seed, environments=environments):
            pending[group.prompt.id] = threads.submit(scored, scorer, group, step)
        done = {name: future.result() for name, future in pending.items()}
    return [done[p.id] for p in prompts]


def scored(scorer: Scorer, group: Group, step: int = 0) -> ScoredGroup:
    """The group with its scores."""
    scores = scorer.score([(group.prompt, c) for c in group.completions], step=step)
    return ScoredGroup(group=group, scores=tuple(scores))


REPEATED = 4
"""Tokens of the runs whose repetition is measured."""


def repetition(ids: np.ndarray) -> float:
    """The share of a completion's 4-token runs that stood in it before; 0 for one of fewer than 4 tokens."""
    if len(ids) < REPEATED:
        return 0.0
    runs = np.lib.stride_tricks.sliding_window_view(ids, REPEATED)
    return 1 - len(np.unique(runs, axis=0)) / len(runs)


def completion_metrics(groups: Sequence[Group]) -> dict[str, float]:
    """What a batch of completions looks like: lengths, truncation, think form, throughput's numerator."""
    completions = [c for g in groups for c in g.completions]
    splits = [split_thinking(c.last_turn) for c in completions]
    lengths = np.array([c.spoken for c in completions])
    return {
        "length": float(lengths.mean()),
        "length_max": float(lengths.max()),
        "truncated": float(np.mean([c.finish_reason == "length" for c in completions])),
        "repetition": float(np.mean([repetition(c.token_ids) for c in completions])),
        "think_format": float(np.mean([s.well_formed for s in splits])),
        "thinking": float(np.mean([s.closed and not s.empty for s in splits])),
        "generated_tokens": float(lengths.sum()),
        **_episode_metrics([c for c in completions if c.turns]),
    }


def _episode_metrics(episodes: Sequence[Completion]) -> dict[str, float]:
    """What happened between policy and environment, where there was one."""
    if not episodes:
        return {}
    said = [str(m["content"]) for c in episodes for m in c.turns if m["role"] == "tool"]
    return {
        "turns": float(np.mean([sum(m["role"] == "assistant" for m in c.turns) for c in episodes])),
        "turn_limit_rate": float(np.mean([c.finish_reason == "turns" for c in episodes])),
        "tool_calls": len(said) / len(episodes),
        "tool_error_rate": float(np.mean([text.startswith("error:") for text in said])) if said else 0.0,
        "environment_failure_rate": float(np.mean([bool(c.failure) for c in episodes])),
    }


def score_metrics(scored: Sequence[ScoredGroup]) -> dict[str, float]:
    """Mean reward, its parts by reward and by task, and how many scores are missing and why."""
    scores = [s for g in scored for s in g.scores]
    values = [s.value for s in scores if s.value is not None]
    metrics = {
        **({"reward": float(np.mean(values))} if values else {}),  # none is no 0
        "infra_error_rate": float(np.mean([s.status == "infra_error" for s in scores])),
        "not_applicable_rate": float(np.mean([s.status == "not_applicable" for s in scores])),
    }
    for name in sorted({name for s in scores for name in s.parts}):
        part = [v for s in scores if (v := s.parts.get(name)) is not None]
        if part:
            metrics[f"reward/{name}"] = float(np.mean(part))
    for task in sorted({g.group.prompt.task for g in scored}):
        mine = [s.value for g in scored if g.group.prompt.task == task for s in g.scores if s.value is not None]
        if task and mine:
            metrics[f"reward_by_task/{task}"] = float(np.mean(mine))
    return metrics


PASSED = 1.0
"""A completion with this score, or more, solves its prompt."""
BINS = 10


def pass_rate(group: ScoredGroup) -> float | None:
    """The share of the group's scored completions that solve the prompt; None if none has a score."""
    known = [s.value for s in group.scores if s.value is not None]
    return float(np.mean([v >= PASSED for v in known])) if known else None


def pass_rate_histogram(scored: Sequence[ScoredGroup], group_size: int) -> dict[str, float]:
    """The share of groups by how many of their completions passed: `pass_rate_hist/0_of_8`, ...; ten bins at most."""
    rates = [r for g in scored if (r := pass_rate(g)) is not None]
    bins = min(group_size, BINS)
    places = np.bincount([int(r * bins + 1e-9) for r in rates], minlength=bins + 1) / max(1, len(rates))
    return {f"pass_rate_hist/{i}_of_{bins}": float(share) for i, share in enumerate(places)}


def rollout_rows(
    scored: Sequence[ScoredGroup], versions: bool = True, advantages: Sequence[np.ndarray] | None = None
) -> list[dict[str, object]]:
    """Rollouts as rows of a table that a person can read; `advantages` by group and completion."""
    return [
        {
            "prompt_id": g.group.prompt.id,
            "prompt": str(g.group.prompt.messages[-1].get("content", "")),
            "mode": g.group.prompt.mode,
            "task": g.group.prompt.task,
            "index": c.index,
            "text": c.text.encode("utf-8", "replace").decode(),  # a lone surrogate fits in no file
            "tokens": c.spoken,
            "finish_reason": c.finish_reason,
            "version": int(c.versions.max()) if versions and len(c.versions) else 0,
            "score": s.value,
            "status": s.status,
            "parts": [{"reward": k, "value": v} for k, v in s.parts.items() if v is not None],
            "extra": [{"column": k, "value": v} for k, v in s.logged.items()],
            **({} if advantages is None else {"group": number, "advantage": float(advantages[number][place])}),
        }
        for number, g in enumerate(scored)
        for place, (c, s) in enumerate(zip(g.group.completions, g.scores, strict=True))
    ]
