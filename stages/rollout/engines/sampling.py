"""Draws tokens: one random stream a sample, so that a batch's make-up never changes what is drawn."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from posttrain.types import SamplingParams


def uniforms(seed: int, prompt_id: str, index: int, count: int) -> NDArray[np.float64]:
    """The stream of sample `index` of `prompt_id` under `seed`: `count` numbers in [0, 1)."""
    digest = hashlib.blake2b(f"{seed}/{prompt_id}/{index}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "big"))).random(count)


def draw(logits: Tensor, random: Tensor, params: SamplingParams) -> tuple[Tensor, Tensor]:
    """Next tokens [B] and their log-probabilities [B] from logits [B, V] and uniforms [B].

    The log-probability is that of the tempered distribution before top-p and top-k cut it: what a learner can
    compute again. At temperature 0 the most likely token is taken, with its log-probability at temperature 1.
    """
    logits = logits.float()
    if params.temperature == 0:
        tokens = logits.argmax(-1)
        return tokens, logits.gather(-1, tokens[:, None])[:, 0] - torch.logsumexp(logits, dim=-1)
    probabilities = F.softmax(logits if params.temperature == 1 else logits / params.temperature, dim=-1)
    cumulative = _cut(probabilities, params).cumsum(-1, dtype=torch.float64)
    # Inverse transform: the first token whose cumulative probability passes the uniform.
    threshold = random.double()[:, None] * cumulative[:, -1:]
    tokens = (cumulative <= threshold).sum(-1).clamp_(max=logits.shape[-1] - 1)
    # Exact enough without the logits: what was drawn has a probability that float32 can hold.
    return tokens, probabilities.gather(-1, tokens[:, None])[:, 0].log()


def _cut(probabilities: Tensor, params: SamplingParams) -> Tensor:
    if 0 < params.top_k < probabilities.shape[-1]:
        least = probabilities.topk(params.top_k, dim=-1).values[:, -1:]
        probabilities = probabilities.masked_fill(probabilities < least, 0.0)
    if params.top_p < 1:
        values, order = probabilities.sort(dim=-1, descending=True)
        # Keep a token if what stands before it hasn't reached top_p yet: at least one stays.
        before = values.cumsum(-1) - values
        values = values.masked_fill(before >= params.top_p * values.sum(-1, keepdim=True), 0.0)
        probabilities = torch.zeros_like(probabilities).scatter(-1, order, values)
    return probabilities
