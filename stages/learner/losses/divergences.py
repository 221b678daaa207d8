"""Distances between the student's and the teacher's next-token distributions: pure functions of log-distributions.

All take rows of log-probabilities [S, n] that sum to 1 and give nats, [S]. p is the teacher, q the student.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

DivergenceKind = Literal["forward_kl", "reverse_kl", "jsd", "skew_forward_kl", "skew_reverse_kl"]

LARGEST_MASS = -1e-7
"""log of the largest mass that a selection may have: what is left to the tail must stay over 0 in float32."""


def divergence(student: Tensor, teacher: Tensor, kind: str, beta: float = 0.5) -> Tensor:
    """Divergence of two log-distributions [S, n] -> [S], in nats.

    forward_kl       KL(p || q), covers the teacher's modes
    reverse_kl       KL(q || p), seeks one
    jsd              beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q (GKD, 2306.13649, eq. 1)
    skew_forward_kl  KL(p || beta p + (1 - beta) q)          (DistiLLM, 2402.03898)
    skew_reverse_kl  KL(q || (1 - beta) p + beta q)
    """
    match kind:
        case "forward_kl":
            return _kl(teacher, student)
        case "reverse_kl":
            return _kl(student, teacher)
        case "jsd":
            mixture = _mixed(teacher, student, beta)
            return beta * _kl(teacher, mixture) + (1 - beta) * _kl(student, mixture)
        case "skew_forward_kl":
            return _kl(teacher, _mixed(teacher, student, beta))
        case "skew_reverse_kl":
            return _kl(student, _mixed(student, teacher, beta))
    raise ValueError(f"divergence {kind!r}: use forward_kl, reverse_kl, jsd, skew_forward_kl or skew_reverse_kl")


def _kl(left: Tensor, right: Tensor) -> Tensor:
    return (left.exp() * (left - right)).sum(-1)


def _mixed(first: Tensor, second: Tensor, share: float) -> Tensor:
    """log(share e^first + (1 - share) e^second)."""
    return torch.logaddexp(first + math.log(share), second + math.log(1 - share))


def with_tail(logprobs: Tensor, ids: Tensor) -> Tensor:
    """The log-probabilities [S, V] at `ids` [S, k], and of everything else together: [S, k + 1].

    A coarser partition never raises a divergence (data processing), and leaving the rest out instead has another
    optimum: a top-k without it teaches over-confidence.
    """
    return close_tail(logprobs.gather(-1, ids))


def close_tail(chosen: Tensor) -> Tensor:
    """Log-probabilities of a selection [S, k] with that of the rest behind them: [S, k + 1]."""
    mass = torch.logsumexp(chosen, dim=-1, keepdim=True).clamp(max=LARGEST_MASS)
    return torch.cat([chosen, torch.log(-torch.expm1(mass))], dim=-1)


def sparse_cross_entropy(student: Tensor, ids: Tensor, shares: Tensor) -> Tensor:
    """-sum of shares x log q at `ids`, [S]: forward KL against sampled targets, up to the teacher's entropy.

    `shares` [S, k] are how often each id was drawn from the teacher, over the draws (0 where a row has fewer ids). In
    expectation over the draws they are p, so the gradient is the full forward KL's (RS-KD, 2503.16870).
    """
    return -(shares * student.gather(-1, ids)).sum(-1)
