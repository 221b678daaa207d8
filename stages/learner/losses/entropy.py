"""Entropy control: a bonus that keeps the entropy in a band, and the few tokens whose covariance moves it most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from posttrain.configs.schema import Covariance, EntropyControl
from posttrain.types import Sample


@dataclass(kw_only=True)
class EntropyBand:
    """The weight of the entropy in the objective, moved by a fixed step a training step.

    Skywork-OR1's adaptive coefficient (2505.22312) grows below a target and shrinks above it. Here the target
    is a band (the Qwen3 report, 4.2: entropy should "increase steadily or remain stable"), and above it the weight
    turns negative. Inside the band it goes back towards 0.
    """

    control: EntropyControl
    weight: float = 0.0

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {"weight": self.weight}

    def restore(self, state: Mapping[str, float]) -> None:
        """Go on from a `state`."""
        self.weight = state["weight"]

    def update(self, entropy: float) -> None:
        """Take the step's mean entropy a token, nats."""
        low, high = self.control.band
        step, most = self.control.step, self.control.most
        if entropy < low:
            self.weight = min(self.weight + step, most)
        elif entropy > high:
            self.weight = max(self.weight - step, -most)
        elif self.weight > 0:
            self.weight = max(self.weight - step, 0.0)
        else:
            self.weight = min(self.weight + step, 0.0)


def covariances(samples: Sequence[Sample]) -> NDArray[np.float64]:
    """(A - mean A)(log pi - mean log pi) of every target of every sample, in order (2505.22617).

    High values make the policy surer: the token is likely and its advantage high. log pi is the engine's, so that the
    choice depends on the batch alone, not on how it's cut; means are over all targets.
    """
    advantages, logprobs = [], []
    for sample in samples:
        targets = np.flatnonzero(sample.loss_mask)
        own = np.zeros(sample.tokens) if sample.token_advantages is None else sample.token_advantages
        assert sample.engine_logprobs is not None
        advantages.append(sample.advantage + own[targets])
        logprobs.append(sample.engine_logprobs[targets])
    a, p = np.concatenate(advantages).astype(float), np.concatenate(logprobs).astype(float)
    return (a - a.mean()) * (p - p.mean())


def hold_back(samples: Sequence[Sample], rule: Covariance, seed: int) -> tuple[list[Sample], int]:
    """The samples with the entropy's main movers held back, and how many tokens that are.

    Clip-Cov: a random `share` of all targets, drawn from those with a covariance in `band`, gets no gradient: its
    advantage is 0. KL-Cov: the `share` with the highest covariance gets `weight` x |log pi - log pi_old| as penalty
    (2505.22617).
    """
    found = covariances(samples)
    count = max(1, round(rule.share * len(found)))
    if rule.kind == "clip":
        inside = np.flatnonzero((found >= rule.band[0]) & (found <= rule.band[1]))
        chosen = np.random.default_rng(seed).permutation(inside)[:count]
    else:
        chosen = np.argsort(-found, kind="stable")[:count]
    marked = np.zeros(len(found), bool)
    marked[chosen] = True
    result, start = [], 0
    for sample in samples:
        targets = np.flatnonzero(sample.loss_mask)
        mine = targets[marked[start : start + len(targets)]]
        start += len(targets)
        result.append(_held(sample, mine, rule) if len(mine) else sample)
    return result, len(chosen)


def _held(sample: Sample, tokens: NDArray[np.int64], rule: Covariance) -> Sample:
    if rule.kind == "kl":
        penalties = np.zeros(sample.tokens, np.float32)
        penalties[tokens] = rule.weight
        return replace(sample, penalties=penalties)
    own = np.zeros(sample.tokens, np.float32) if sample.token_advantages is None else sample.token_advantages.copy()
    own[tokens] = -sample.advantage
    return replace(sample, token_advantages=own)
