"""From scored groups to training samples: what was sampled, with its advantage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from posttrain.configs.schema import Grpo
from posttrain.stages.learner.losses.advantages import group_advantages, multi_reward_advantages, zero_variance
from posttrain.stages.learner.rank.frozen_names import REFERENCE, teacher_name
from posttrain.stages.learner.ranks import Learner
from posttrain.types import Completion, Sample, ScoredGroup

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Experience:
    """What a step trains on."""

    samples: list[Sample]
    advantages: list[NDArray[np.float64]]
    """By group and completion; nan where a completion has no score."""
    metrics: dict[str, float]


def experience(
    scored: Sequence[ScoredGroup],
    spec: Grpo,
    seed: int,
    *,
    weights: Mapping[str, float],
    learner: Learner | None = None,
) -> Experience:
    """Training samples with their advantages, in a fixed order.

    A completion without a score (not applicable, infra error) leaves its group. Groups whose rewards are all equal
    have advantage 0: they are counted, and left out of the loss's sum but not of its normaliser. `weights` are the
    rewards', by name: with `combine: normalize_then_sum` each reward is normalised by itself. `learner` holds the
    frozen models that a KL or a teacher needs.
    """
    completions = [completion for group in scored for completion in group.group.completions]
    samples = [sequence(c, number) for number, group in enumerate(scored) for c in group.group.completions]
    if learner is not None and spec.kl.weight:
        samples = _with_reference(samples, spec, learner)
    if learner is not None and spec.teacher is not None:
        samples = guided(
            samples, learner, teacher_name(), weight=spec.teacher.weight, bound=spec.teacher.bound,
            micro_tokens=spec.micro_tokens,
        )  # fmt: skip
    rewards, advantages = _advantages(scored, samples, spec, seed, weights)
    share = 1.0 if spec.teacher is None else spec.teacher.reward_weight
    values = [value for group in advantages for value in group]
    flat = [
        replace(sample, advantage=share * float(advantage))
        for completion, advantage, sample in zip(completions, values, samples, strict=True)
        if not np.isnan(advantage) and not (spec.mask_truncated and completion.finish_reason == "length")
    ]
    known = np.array([s.advantage for s in flat])
    metrics = {
        "zero_variance_groups": zero_variance(rewards) / max(1, len(scored)),
        "advantage_std": float(known.std()) if len(known) else 0.0,
    }
    if spec.teacher is not None:
        distances = [s.token_advantages[s.loss_mask > 0] for s in flat if s.token_advantages is not None]
        if distances:
            metrics["teacher_kl"] = -float(np.concatenate(distances).mean()) / (spec.teacher.weight or 1.0)
    known_kl = [_distance(s) / max(float(s.loss_mask.sum()), 1.0) for s in flat if spec.kl.placed == "reward"]
    if known_kl and spec.kl.weight:
        metrics["kl"] = float(np.mean(known_kl))
    return Experience(samples=flat, advantages=advantages, metrics=metrics)


def sequence(completion: Completion, group: int) -> Sample:
    """A completion behind its prompt; the engine's log-probabilities stand at their tokens."""
    zeros = np.zeros(len(completion.prompt_ids), np.float32)
    return Sample(
        ids=np.concatenate([completion.prompt_ids, completion.token_ids]),
        loss_mask=np.concatenate([zeros, completion.loss_mask]),
        engine_logprobs=np.concatenate([zeros, completion.logprobs]),
        group=group,
    )


def has_signal(group: ScoredGroup, combine: str = "sum_then_normalize") -> bool:
    """Whether the group's known rewards differ: their sums, or any of them where each is normalised by itself."""
    known = [s for s in group.scores if s.value is not None]
    if combine == "normalize_then_sum":
        return any(len({s.terms.get(name) for s in known}) > 1 for name in {n for s in known for n in s.terms})
    return len({s.value for s in known}) > 1


def _with_reference(samples: Sequence[Sample], spec: Grpo, learner: Learner) -> list[Sample]:
    values = learner.logprobs(
        samples, micro_tokens=spec.micro_tokens, temperature=spec.sampling.temperature, frozen=REFERENCE
    )
    return [replace(s, reference_logprobs=logprobs) for s, logprobs in zip(samples, values, strict=True)]


def guided(
    samples: Sequence[Sample], learner: Learner, teacher: str, *, weight: float, bound: float, micro_tokens: int
) -> list[Sample]:
    """The samples with weight x (log teacher - log policy) a token, cut to +-bound, as their tokens' advantages.

    On-policy distillation as a policy gradient (Lu, "On-Policy Distillation", 2025): in expectation over the policy's
    samples its gradient is the reverse KL's. The teacher is scored at temperature 1, whatever the policy sampled at.
    """
    values = learner.logprobs(samples, micro_tokens=micro_tokens, frozen=teacher)
    found = []
    for sample, theirs in zip(samples, values, strict=True):
        assert sample.engine_logprobs is not None
        distance = (theirs - sample.engine_logprobs).clip(-bound, bound) * sample.loss_mask
        found.append(replace(sample, token_advantages=(weight * distance).astype(np.float32)))
    return found


def _advantages(
    scored: Sequence[ScoredGroup], samples: Sequence[Sample], spec: Grpo, seed: int, weights: Mapping[str, float]
) -> tuple[list[list[float | None]], list[NDArray[np.float64]]]:
    rewards = [[s.value for s in g.scores] for g in scored]
    if spec.combine == "normalize_then_sum":
        terms = [[s.terms if s.status == "ok" else None for s in g.scores] for g in scored]
        return rewards, multi_reward_advantages(_shuffled(terms, seed) if spec.shuffle_rewards else terms, weights)
    rewards = _shuffled(rewards, seed) if spec.shuffle_rewards else rewards
    if spec.kl.weight and spec.kl.placed == "reward":
        rewards = [
            [None if r is None else r - spec.kl.weight * _distance(s) for r, s in zip(values, own, strict=True)]
            for values, own in zip(rewards, split_like(samples, rewards), strict=True)
        ]
    return rewards, group_advantages(rewards, spec.scale_advantages)


def _distance(sample: Sample) -> float:
    """k1 summed over the completion: log policy - log reference, nats."""
    if sample.reference_logprobs is None or sample.engine_logprobs is None:
        return 0.0
    return float(((sample.engine_logprobs - sample.reference_logprobs) * sample.loss_mask).sum())


def _shuffled(rewards: list[list[T]], seed: int) -> list[list[T]]:
    flat = [r for group in rewards for r in group]
    order = np.random.default_rng(seed).permutation(len(flat))
    return split_like([flat[i] for i in order], rewards)


def split_like(values: Sequence[T], parts: Sequence[Sequence[Any]]) -> list[list[T]]:
    """The values in pieces as long as `parts`.

    >>> split_like([1, 2, 3], ["a", "bc"])
    [[1], [2, 3]]
    """
    ends = accumulate(map(len, parts))
    return [list(values[end - len(part) : end]) for part, end in zip(parts, ends, strict=True)]
