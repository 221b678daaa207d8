"""Off-policy correction: what the rollout engine sampled with against what the learner says of the same tokens.

Three policies: mu, the engine's (older weights, other kernels); old, the learner's before this step; pi, the learner's
now. The surrogate compares pi with old; here stands the weight of old against mu, which no gradient flows through.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from posttrain.stages.learner.losses.surrogates import LIMIT, Sequences, ratio_of

ImportanceMode = Literal["none", "token_tis", "sequence_tis", "token_mis", "sequence_mis", "geometric_mis"]


@dataclass(frozen=True, kw_only=True)
class Importance:
    """How rho = old / mu weighs the loss.

    `*_tis` truncate: min(rho, cap). `*_mis` mask: rho inside [floor, cap], 0 outside (IcePop's double-sided mask).
    `token` takes each token's own rho, `sequence` the product over its sequence, `geometric` keeps or drops a sequence
    by the geometric mean and weighs its tokens by their own, truncated.
    """

    mode: ImportanceMode = "token_tis"
    cap: float = 2.0
    floor: float = 0.0


def importance_weights(log_rho: Tensor, sequences: Sequences, spec: Importance) -> Tensor:
    """The weight of each token, [S], without gradient. `log_rho` = log old - log mu, [S].

    Truncation: Ionides (2008); masking: IcePop (Ring-1T, 2510.18855). A token's weight ignores that earlier tokens
    differed too, which is a bias; a sequence's has a variance that grows with its length.
    """
    log_rho = log_rho.detach()
    if spec.mode == "none":
        return torch.ones_like(log_rho)
    token = ratio_of(log_rho)
    if spec.mode == "geometric_mis":
        mean = ratio_of(sequences.mean(log_rho))
        return torch.where((mean >= spec.floor) & (mean <= spec.cap), token.clamp(max=spec.cap), 0.0)
    rho = token if spec.mode.startswith("token") else ratio_of(sequences.total(log_rho))
    if spec.mode.endswith("tis"):
        return rho.clamp(max=spec.cap)
    return torch.where((rho >= spec.floor) & (rho <= spec.cap), rho, 0.0)


def stale_mask(log_ratio: Tensor, advantages: Tensor, sequences: Sequences, most: float | None) -> Tensor:
    """0 for the tokens of sequences with A < 0 that drifted: mean of log(mu / pi) over `most` (DeepSeek-V3.2,
    2512.02556, 3.1); 1 elsewhere, [S]. `log_ratio` = log pi - log mu."""
    if most is None:
        return torch.ones_like(log_ratio)
    drift = sequences.mean(-log_ratio.detach())
    return ((advantages >= 0) | (drift <= most)).to(log_ratio.dtype)


def mismatch(log_rho: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """How far the engine is from the learner, a token, [S]; metrics average them.

    `mismatch_kl` estimates KL(mu || old) by k1 = log mu - log old, `mismatch_k3` by k3 = rho - 1 - log rho (never
    negative, less noise: Schulman, "Approximating KL divergence"); `mismatch_abs` is |log rho|; `importance` the mean
    weight; `importance_square` its square, from which the effective sample size follows.
    """
    log_rho = log_rho.detach()
    return {
        "mismatch_kl": -log_rho,
        "mismatch_k3": ratio_of(log_rho) - 1 - log_rho.clamp(-LIMIT, LIMIT),
        "mismatch_abs": log_rho.abs(),
        "importance": weights,
        "importance_square": weights.square(),
        "importance_cut": (weights < ratio_of(log_rho) - 1e-6).float(),
    }
