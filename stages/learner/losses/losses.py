"""The learner's losses: pure functions of tensors with one entry a target token (shape [S]), each with its source.

They return the loss a token, unweighted; the worker weighs, sums and normalises over the global batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from posttrain.stages.learner.losses.divergences import DivergenceKind
from posttrain.stages.learner.losses.off_policy import Importance, importance_weights, mismatch, stale_mask
from posttrain.stages.learner.losses.surrogates import LIMIT, SURROGATES, Sequences, ratio_of

Metrics = dict[str, Tensor]
KlEstimator = Literal["k1", "k2", "k3", "k3_plain"]


@dataclass(frozen=True, kw_only=True)
class CrossEntropy:
    """Supervised fine-tuning: minus the log-probability of the target."""


@dataclass(frozen=True, kw_only=True)
class PolicyLoss:
    """A policy gradient: a surrogate by name, weighed for the engine's mismatch, with a KL to the reference and an
    entropy bonus. The defaults are PPO's surrogate with DAPO's asymmetric clip (2503.14476, 3.1).
    """

    surrogate: str = "clip"
    clip_low: float = 0.2
    clip_high: float = 0.28
    dual_clip: float | None = None
    cap: float = 5.0
    tau: tuple[float, float] = (1.0, 1.05)
    kl: float = 0.0
    kl_estimator: KlEstimator = "k3"
    entropy: float = 0.0
    """Weight of the entropy that is added to the objective; negative takes it away."""
    importance: Importance = field(default_factory=Importance)
    bypass: bool = False
    """The ratio compares with the engine's policy: it corrects itself, and nothing else does."""
    drop_stale: float | None = None
    temperature: float = 1.0


@dataclass(frozen=True, kw_only=True)
class DivergenceLoss:
    """Distance between the student's and the teacher's next-token distributions.

    Over the whole vocabulary, or over the `top_k` likeliest ids of `support` and a bucket for the rest.
    """

    kind: DivergenceKind = "reverse_kl"
    beta: float = 0.5
    top_k: int = 0
    support: Literal["teacher", "student"] = "teacher"
    drawn: bool = False
    """Whether stored targets are ids drawn from the teacher."""


Loss = CrossEntropy | PolicyLoss | DivergenceLoss


@dataclass(frozen=True, kw_only=True)
class PolicyTokens:
    """What a policy loss reads, each [S]. `old` is nan where the policy of before is the present one."""

    logprobs: Tensor
    entropy: Tensor
    old: Tensor
    engine: Tensor
    """log mu: what the rollout engine sampled with; nan where it isn't corrected for."""
    advantages: Tensor
    reference: Tensor
    penalties: Tensor
    """Weight of |log w| (KL-Cov); 0 for nearly all tokens."""


def policy_loss(tokens: PolicyTokens, sequences: Sequences, spec: PolicyLoss) -> tuple[Tensor, Metrics]:
    """The loss a token, [S]: rho x surrogate + kl x KL(pi || reference) + penalty x |log w| - entropy x H."""
    logprobs = tokens.logprobs
    old = torch.where(tokens.old.isnan(), logprobs.detach(), tokens.old)
    engine = torch.where(tokens.engine.isnan(), old, tokens.engine)
    gap = old - engine
    if spec.bypass:
        old = engine
    log_ratio = logprobs - old
    rho = torch.ones_like(gap) if spec.bypass else importance_weights(gap, sequences, spec.importance)
    kept = stale_mask(logprobs - engine, tokens.advantages, sequences, spec.drop_stale)
    found = SURROGATES[spec.surrogate](log_ratio, logprobs, tokens.advantages, sequences, spec)
    loss = found.loss * rho * kept + tokens.penalties * log_ratio.abs()
    metrics = {
        "ratio": found.ratio.detach(),
        "clip_low": found.low.float(),
        "clip_high": found.high.float(),
        "approx_kl": k3(logprobs, old).detach(),  # KL(old || pi): the tokens are old's
        **mismatch(gap, rho),
    }
    if spec.drop_stale is not None:
        metrics["dropped_stale"] = 1 - kept
    if spec.kl:
        estimate = kl_estimate(logprobs, tokens.reference, log_ratio, spec.kl_estimator)
        loss = loss + spec.kl * estimate
        metrics["kl"] = k3(tokens.reference, logprobs).detach()
    if spec.entropy:
        loss = loss - spec.entropy * tokens.entropy
    return loss, metrics


def k3(reference: Tensor, logprobs: Tensor) -> Tensor:
    """e^d - 1 - d with d = log reference - log pi: Schulman's estimate of KL(pi || reference), never negative, [S]."""
    delta = (reference - logprobs).clamp(-LIMIT, LIMIT)
    return delta.exp() - 1 - delta


def kl_estimate(logprobs: Tensor, reference: Tensor, log_ratio: Tensor, estimator: KlEstimator) -> Tensor:
    """An estimate of KL(pi || reference) whose *gradient* is that of the KL, where there is one, [S].

    k1: w (log pi - log reference), whose gradient is the KL's up to a term of mean 0: w carries it (k1 alone has mean
    gradient 0). k2: (log pi - log reference)^2 / 2, whose gradient is the KL's at w = 1. k3: w (e^d - 1 - d)
    (DeepSeek-V3.2, 2512.02556); k3_plain leaves w out, as GRPO did (2402.03300, eq. 4): its gradient is another
    divergence's, KL(reference || pi).
    """
    ratio = ratio_of(log_ratio)
    match estimator:
        case "k1":
            return ratio * (logprobs - reference)
        case "k2":
            return (logprobs - reference).square() / 2
        case "k3":
            return ratio * k3(reference, logprobs)
        case "k3_plain":
            return k3(reference, logprobs)


PLACES = (0, 16, 64, 256, 1024)
"""Where in a completion a target stands: its buckets' first places."""


def by_place(metrics: Metrics, samples: Tensor) -> Metrics:
    """Divergence and agreement apart by a target's place in its completion, with how many there are, [S] each.

    `x_at/16` is x for places 16 to 63 and 0 elsewhere; `targets_at/16` is 1 and 0: the ratio of their means is x there.
    A divergence that grows with the place says that the teacher meets prefixes that it wouldn't write itself.
    """
    first = torch.ones_like(samples, dtype=torch.bool)
    first[1:] = samples[1:] != samples[:-1]
    number = torch.arange(len(samples), device=samples.device)
    place = number - torch.cummax(torch.where(first, number, 0), dim=0).values
    bucket = torch.bucketize(place, torch.tensor(PLACES[1:], device=samples.device), right=True)
    found: Metrics = {}
    for index, start in enumerate(PLACES):
        here = (bucket == index).float()
        found[f"targets_at/{start}"] = here
        for name in ("divergence", "agreement"):
            found[f"{name}_at/{start}"] = metrics[name] * here
    return found
