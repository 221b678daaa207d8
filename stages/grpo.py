"""Reasoning RL and general RL: GRPO (DeepSeekMath 2402.03300) with DAPO's clip-higher and token mean (2503.14476).

One step: sample a group of answers to each prompt, score them, compare each with its group, and take one or more
clipped policy-gradient steps on the tokens that were sampled. Between engine and learner nothing is re-encoded.
The old log-probabilities are the engine's own; `logprob_gap` of the first minibatch measures how far they are from
the learner's.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from posttrain.configs.schema import Grpo
from posttrain.stages.context import StageContext, StageResult
from posttrain.stages.data.load import derive_seed, load_all
from posttrain.stages.data.schedule import BatchSchedule
from posttrain.stages.data.store import write_rows
from posttrain.stages.learner.advantages import group_advantages, multi_reward_advantages, zero_variance
from posttrain.stages.learner.losses import PolicyLoss
from posttrain.stages.learner.modelfiles import ModelSpec
from posttrain.stages.learner.session import TrainingSession
from posttrain.stages.rollout.collect import (
    ScoredGroup,
    collect,
    completion_metrics,
    rollout_rows,
    sampled_share,
    sampling_params,
    score_metrics,
)
from posttrain.types import Prompt, Sample

T = TypeVar("T")


def run(context: StageContext) -> StageResult:
    """Train the stage's model on its prompts and rewards."""
    spec: Grpo = context.spec
    sources = load_all(context, spec.prompts)
    schedule = BatchSchedule(sources, [s.weight for s in spec.prompts], size=spec.prompts_per_step, seed=context.seed)
    session = TrainingSession.start(context, spec.steps * spec.minibatches)
    if spec.kl:
        session.learner.load_teacher(ModelSpec.of(session.path, session.source))
    pool = context.workers.rollout()
    pool.load(ModelSpec.of(session.path, session.source), context.seed)
    pool.update_weights(session.learner.weights(), session.first)
    params = sampling_params(spec.sampling)
    metrics: dict[str, float] = {}
    with context.workers.scorer(spec.rewards) as scorer:
        for step in session.steps():
            started = time.monotonic()
            prompts = unique_prompts(schedule.batch(step))
            seed = derive_seed(context.seed, context.name, step)
            scored = collect(
                pool, scorer, prompts, spec.group_size, params,
                seed=seed, step=step, environments=context.workers.environment,
            )  # fmt: skip
            generated = time.monotonic()
            samples, metrics = make_samples(scored, spec, seed, scorer.weights)
            metrics |= scorer.metrics()
            metrics |= _learn(session, samples, spec, step)
            trained = time.monotonic()
            pool.update_weights(session.learner.weights(), step + 1)
            metrics |= {
                "seconds_generate": generated - started,
                "seconds_train": trained - generated,
                "seconds_sync": time.monotonic() - trained,
            }
            every = context.logging.rollouts_every
            if every and (step % every == 0 or step + 1 == spec.steps):
                write_rows(context.dir / "rollouts", rollout_rows(scored), f"step-{step + 1:06d}.parquet")
            session.end_step(step, metrics, f"reward {metrics['reward']:.3f}")
    pool.free()
    return session.finish({k: metrics[k] for k in ("reward", "entropy", "length") if k in metrics})


def unique_prompts(prompts: Sequence[Prompt]) -> list[Prompt]:
    """The step's prompts under ids of their own: a small set may bring a prompt twice in one step."""
    seen: dict[str, int] = {}
    result = []
    for prompt in prompts:
        count = seen.get(prompt.id, 0)
        seen[prompt.id] = count + 1
        result.append(Prompt(**{**prompt.__dict__, "id": f"{prompt.id}+{count}"}) if count else prompt)
    return result


def make_samples(
    scored: Sequence[ScoredGroup], spec: Grpo, seed: int, weights: Mapping[str, float] | None = None
) -> tuple[list[Sample], dict[str, float]]:
    """Training samples with their advantages, in a fixed order, and the step's metrics.

    A completion without a score (not applicable, infra error) leaves its group. Groups whose rewards are all equal
    have advantage 0: they are counted, and left out of the loss's sum but not of its normaliser. `weights` are the
    rewards', by name: with `combine: normalize_then_sum` each reward is normalised by itself.
    """
    rewards = [[s.value for s in g.scores] for g in scored]
    if spec.combine == "normalize_then_sum":
        terms = [[s.terms if s.status == "ok" else None for s in g.scores] for g in scored]
        advantages = multi_reward_advantages(_shuffled(terms, seed) if spec.shuffle_rewards else terms, weights or {})
    else:
        rewards = _shuffled(rewards, seed) if spec.shuffle_rewards else rewards
        advantages = group_advantages(rewards, spec.scale_advantages)
    samples = []
    for index, (group, values) in enumerate(zip(scored, advantages, strict=True)):
        for completion, advantage in zip(group.group.completions, values, strict=True):
            if np.isnan(advantage):
                continue
            prompt = len(completion.prompt_ids)
            zeros = np.zeros(prompt, np.float32)
            samples.append(
                Sample(
                    ids=np.concatenate([completion.prompt_ids, completion.token_ids]),
                    loss_mask=np.concatenate([zeros, sampled_share(completion)]),
                    advantage=float(advantage),
                    old_logprobs=np.concatenate([zeros, completion.logprobs]),
                    group=index,
                )
            )
    flat = np.array([s.advantage for s in samples])
    metrics = {
        **score_metrics(scored),
        **completion_metrics([g.group for g in scored]),
        "zero_variance_groups": zero_variance(rewards) / max(1, len(scored)),
        "advantage_std": float(flat.std()) if len(flat) else 0.0,
    }
    return samples, metrics


def _shuffled(rewards: list[list[T]], seed: int) -> list[list[T]]:
    flat = [r for group in rewards for r in group]
    order = np.random.default_rng(seed).permutation(len(flat))
    mixed = iter([flat[i] for i in order])
    return [[next(mixed) for _ in group] for group in rewards]


def _learn(session: TrainingSession, samples: Sequence[Sample], spec: Grpo, step: int) -> dict[str, float]:
    """The minibatch steps on one rollout batch; whole groups stay together."""
    if not samples:
        return {"loss": 0.0, "skipped": 1.0}
    temperature = spec.sampling.temperature or 1.0
    if spec.kl:
        samples = session.learner.with_reference(samples, micro_tokens=spec.micro_tokens, temperature=temperature)
    loss = PolicyLoss(clip_low=spec.clip[0], clip_high=spec.clip[1], kl=spec.kl, temperature=temperature)
    groups = sorted({s.group for s in samples})
    results: list[dict[str, float]] = []
    for part in np.array_split(groups, min(spec.minibatches, len(groups))):
        chosen = [s for s in samples if s.group in set(part.tolist())]
        results.append(
            session.learner.step(
                chosen,
                loss,
                step=step * spec.minibatches + len(results),
                micro_tokens=spec.micro_tokens,
                aggregate=spec.aggregate,
            )
        )
    first, last = results[0], results[-1]
    mean = {k: float(np.mean([r[k] for r in results])) for k in first if k not in ("logprob_gap", "tokens", "targets")}
    return mean | {
        "logprob_gap": first["logprob_gap"],
        "lr": last["lr"],
        "tokens": sum(r["tokens"] for r in results),
    }
