"""The policy-gradient surrogates of GRPO's family, by name: pure functions, one entry a target token, shape [S].

Each takes log w = log pi - log pi_old, log pi, the advantages and the sequence that each token belongs to, and returns
the loss a token, unweighted, and which tokens it clips below and above. At w = 1 all have the gradient -A grad log pi.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

LIMIT = 20.0
"""Log-ratios are cut here before they are exponentiated: e^20 is far over any clip, and finite."""


class SurrogateSpec(Protocol):
    """What surrogates read of a `PolicyLoss`."""

    @property
    def clip_low(self) -> float: ...
    @property
    def clip_high(self) -> float: ...
    @property
    def dual_clip(self) -> float | None: ...
    @property
    def cap(self) -> float: ...
    @property
    def tau(self) -> tuple[float, float]: ...


@dataclass(frozen=True, kw_only=True)
class Sequences:
    """Which sequence of a micro-batch each target belongs to: `index` [S], in 0..count-1. None is ever cut in two."""

    index: Tensor
    count: int

    @classmethod
    def of(cls, samples: Tensor) -> Sequences:
        """From each target's sample number (any integers)."""
        found, index = torch.unique(samples, return_inverse=True)
        return cls(index=index, count=len(found))

    def total(self, values: Tensor) -> Tensor:
        """The sum of each token's sequence, [S]."""
        return torch.zeros(self.count, dtype=values.dtype, device=values.device).index_add(0, self.index, values)[
            self.index
        ]

    def mean(self, values: Tensor) -> Tensor:
        """The mean of each token's sequence, [S]."""
        return self.total(values) / self.total(torch.ones_like(values))


@dataclass(frozen=True, kw_only=True)
class Surrogate:
    """A loss a token, and where its clip holds the gradient back."""

    loss: Tensor
    ratio: Tensor
    low: Tensor
    high: Tensor


def ratio_of(log_ratio: Tensor) -> Tensor:
    """e^(log w), with log w cut to +-20."""
    return log_ratio.clamp(-LIMIT, LIMIT).exp()


def _clipped(ratio: Tensor, advantages: Tensor, spec: SurrogateSpec) -> Surrogate:
    low, high = ratio < 1 - spec.clip_low, ratio > 1 + spec.clip_high
    inside = ratio.clamp(1 - spec.clip_low, 1 + spec.clip_high)
    # Dual clip: where A < 0 nothing bounds -wA from above, and one token of a large ratio could rule the batch.
    bounded = ratio
    if spec.dual_clip is not None:
        bounded = torch.where(advantages < 0, ratio.clamp(max=spec.dual_clip), ratio)
    loss = -torch.minimum(bounded * advantages, inside * advantages)
    return Surrogate(loss=loss, ratio=ratio, low=low & (advantages < 0), high=high & (advantages > 0))


def clip(
    log_ratio: Tensor, logprobs: Tensor, advantages: Tensor, sequences: Sequences, spec: SurrogateSpec
) -> Surrogate:
    """PPO's clipped surrogate (1707.06347, eq. 7): -min(w A, clip(w, 1-low, 1+high) A).

    GRPO (2402.03300, eq. 3) takes one range, DAPO (2503.14476, 3.1) a higher high. `dual_clip` c bounds w where A < 0
    (1912.09729, 3.3; INTELLECT-2's delta).
    """
    return _clipped(ratio_of(log_ratio), advantages, spec)


def gspo(
    log_ratio: Tensor, logprobs: Tensor, advantages: Tensor, sequences: Sequences, spec: SurrogateSpec
) -> Surrogate:
    """GSPO (2507.18071, eq. 5 and 7): the clipped surrogate of s = e^(mean over the sequence of log w).

    Every token of a sequence has the same value: with `aggregate: sequence` their mean is the paper's objective.
    """
    return _clipped(ratio_of(sequences.mean(log_ratio)), advantages, spec)


def gspo_token(
    log_ratio: Tensor, logprobs: Tensor, advantages: Tensor, sequences: Sequences, spec: SurrogateSpec
) -> Surrogate:
    """GSPO-token (2507.18071, eq. 13 and 14): sg(s) pi / sg(pi), so that advantages may differ within a sequence."""
    log_s = sequences.mean(log_ratio).detach() + logprobs - logprobs.detach()
    return _clipped(ratio_of(log_s), advantages, spec)


def cispo(
    log_ratio: Tensor, logprobs: Tensor, advantages: Tensor, sequences: Sequences, spec: SurrogateSpec
) -> Surrogate:
    """CISPO (MiniMax-M1, 2506.13585, eq. 4): -sg(min(w, cap)) A log pi. No token loses its gradient to the clip."""
    ratio = ratio_of(log_ratio)
    weight = ratio.clamp(max=spec.cap).detach()
    return Surrogate(
        loss=-weight * advantages * logprobs, ratio=ratio, low=torch.zeros_like(ratio, dtype=torch.bool),
        high=ratio > spec.cap,
    )  # fmt: skip


def sapo(
    log_ratio: Tensor, logprobs: Tensor, advantages: Tensor, sequences: Sequences, spec: SurrogateSpec
) -> Surrogate:
    """SAPO (2511.20347): a soft gate instead of a clip, -sigmoid(tau (w - 1)) 4 / tau A; tau by the sign of A."""
    ratio = ratio_of(log_ratio)
    positive, negative = spec.tau
    tau = torch.where(advantages > 0, positive, negative)
    nothing = torch.zeros_like(ratio, dtype=torch.bool)
    return Surrogate(
        loss=-torch.sigmoid(tau * (ratio - 1)) * 4 / tau * advantages, ratio=ratio, low=nothing, high=nothing
    )


SURROGATES: dict[str, Callable[[Tensor, Tensor, Tensor, Sequences, SurrogateSpec], Surrogate]] = {
    "clip": clip,
    "gspo": gspo,
    "gspo_token": gspo_token,
    "cispo": cispo,
    "sapo": sapo,
}
