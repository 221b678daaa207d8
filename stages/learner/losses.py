"""The learner's losses: pure functions of tensors with one entry a target token (shape [S]), each with its source.

They return the loss a token, unweighted; the worker weighs, sums and normalises over the global batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Metrics = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class CrossEntropy:
    """Supervised fine-tuning: minus the log-probability of the target."""


@dataclass(frozen=True, kw_only=True)
class PolicyLoss:
    """Clipped policy gradient: PPO's surrogate (1707.06347, eq. 7) with DAPO's asymmetric clip (2503.14476, 3.1)."""

    clip_low: float = 0.2
    clip_high: float = 0.28
    kl: float = 0.0
    temperature: float = 1.0


@dataclass(frozen=True, kw_only=True)
class DivergenceLoss:
    """Distance between the student's and the teacher's next-token distributions, over the full vocabulary."""

    kind: Literal["forward_kl", "reverse_kl", "jsd"] = "reverse_kl"
    beta: float = 0.5


Loss = CrossEntropy | PolicyLoss | DivergenceLoss


def cross_entropy(logprobs: Tensor) -> Tensor:
    """-log pi(target), [S]."""
    return -logprobs


def clipped_policy(
    logprobs: Tensor, old: Tensor, advantages: Tensor, reference: Tensor, spec: PolicyLoss
) -> tuple[Tensor, Metrics]:
    """GRPO's token objective (2402.03300, eq. 3), negated: -min(w A, clip(w, 1-low, 1+high) A) + kl * k3, [S].

    w = pi / pi_old; k3 = w (e^d - 1 - d) with d = log reference - log pi: Schulman's estimate, weighted so that its
    gradient is the reverse KL's (DeepSeek-V3.2, 2512.02556).
    """
    log_ratio = logprobs - old
    ratio = log_ratio.clamp(-20, 20).exp()
    clipped = ratio.clamp(1 - spec.clip_low, 1 + spec.clip_high)
    loss = -torch.minimum(ratio * advantages, clipped * advantages)
    metrics = {
        "ratio": ratio.detach(),
        "clip_low": ((ratio < 1 - spec.clip_low) & (advantages < 0)).float(),
        "clip_high": ((ratio > 1 + spec.clip_high) & (advantages > 0)).float(),
        "approx_kl": ((-log_ratio).clamp(-20, 20).exp() - 1 + log_ratio).detach(),
        "logprob_gap": log_ratio.detach().abs(),
    }
    if spec.kl:
        delta = (reference - logprobs).clamp(-20, 20)
        k3 = ratio * (delta.exp() - 1 - delta)
        loss = loss + spec.kl * k3
        metrics["kl"] = k3.detach()
    return loss, metrics


def divergence(student: Tensor, teacher: Tensor, kind: str, beta: float = 0.5) -> Tensor:
    """Divergence of two log-distributions [S, V] -> [S], in nats.

    forward_kl: sum p (log p - log q), p the teacher (mode covering). reverse_kl: sum q (log q - log p) (mode
    seeking). jsd: beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q (GKD, 2306.13649, eq. 1).
    """
    if kind == "forward_kl":
        return (teacher.exp() * (teacher - student)).sum(-1)
    if kind == "reverse_kl":
        return (student.exp() * (student - teacher)).sum(-1)
    if kind != "jsd":
        raise ValueError(f"divergence {kind!r}: use forward_kl, reverse_kl or jsd")
    weights = torch.tensor([beta, 1 - beta], device=student.device, dtype=student.dtype).log()
    mixture = torch.logsumexp(torch.stack([teacher + weights[0], student + weights[1]]), dim=0)
    to_teacher = (teacher.exp() * (teacher - mixture)).sum(-1)
    to_student = (student.exp() * (student - mixture)).sum(-1)
    return beta * to_teacher + (1 - beta) * to_student
