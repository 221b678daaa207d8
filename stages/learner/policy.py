"""The model as the learner sees it: packed ids in, per-target statistics out, the head applied chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from posttrain.stages.learner.attention import Layout
from posttrain.stages.learner.guides import Guide

CHUNK_ELEMENTS = 1 << 25
"""Most logits alive at once (128 MiB in float32): a chunk has CHUNK_ELEMENTS // vocabulary targets."""


def chunk_size(vocabulary: int) -> int:
    return max(1, CHUNK_ELEMENTS // vocabulary)


class Policy(nn.Module):
    """Wraps a causal language model. DeepSpeed's engine wraps this, so the head is always called as a module
    (under ZeRO-3 its bare weight is an empty shard).
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.vocabulary: int = model.config.vocab_size

    def hidden(self, ids: Tensor, positions: Tensor, layout: Layout, sources: Tensor) -> Tensor:
        """Final hidden states at `sources`: [S, d]."""
        backbone = self.model.base_model
        if hasattr(self.model, "get_base_model"):  # peft keeps the causal model one level down
            backbone = self.model.get_base_model().base_model
        states = backbone(
            input_ids=ids[None], position_ids=positions[None], attention_mask=None, use_cache=False, layout=layout
        ).last_hidden_state[0]
        return states[sources]

    def logits(self, hidden: Tensor) -> Tensor:
        """Float32 logits [n, V] of a head that multiplies in the model's own precision."""
        head = self.model.get_output_embeddings()
        return head(hidden).float()

    def forward(
        self,
        ids: Tensor,
        positions: Tensor,
        layout: Layout,
        sources: Tensor,
        targets: Tensor,
        chunks: int,
        temperature: float = 1.0,
        entropy_gradient: bool = False,
        guide: Guide | None = None,
    ) -> dict[str, Tensor]:
        """Statistics a target, [S]: `logprobs` and `entropy` at `temperature`; with a guide, at temperature 1, and
        `divergence` and `agreement` too. The entropy has a gradient only if asked for.

        `chunks` is the number of head calls, the same on all ranks.
        """
        hidden = self.hidden(ids, positions, layout, sources)
        labels = ids[targets]

        def stats(part: Tensor, label: Tensor) -> tuple[Tensor, ...]:
            logits = self.logits(part)
            logprobs = F.log_softmax(logits if temperature == 1 else logits / temperature, dim=-1)
            if entropy_gradient and torch.is_grad_enabled():
                entropy = -(logprobs.exp() * logprobs).sum(-1)
            else:
                entropy = _entropy(logprobs)
            return logprobs.gather(-1, label[:, None])[:, 0], entropy

        if guide is None:
            chosen, entropy = run_chunks(stats, (hidden, labels), chunks)
            return {"logprobs": chosen, "entropy": entropy}

        def compare(part: Tensor, label: Tensor, *theirs: Tensor) -> tuple[Tensor, ...]:
            student, distance, agree = guide.compare(self.logits(part), *theirs)
            entropy = _entropy(student)
            return distance, student.gather(-1, label[:, None])[:, 0], entropy, agree

        distance, chosen, entropy, agree = run_chunks(compare, (hidden, labels, *guide.tensors), chunks)
        return {"divergence": distance, "logprobs": chosen, "entropy": entropy, "agreement": agree}


@torch.no_grad()
def _entropy(logprobs: Tensor) -> Tensor:
    """Nats, [n], of log-probabilities [n, V], with one tensor of their size."""
    return -logprobs.exp().mul_(logprobs).sum(-1)


def run_chunks(
    function: Callable[..., tuple[Tensor, ...]], tensors: tuple[Tensor, ...], chunks: int
) -> tuple[Tensor, ...]:
    """Apply `function` to `chunks` slices and join the results; recomputed in the backward pass if over one.

    Slices may be empty: a rank with fewer targets still calls the head as often as the others.
    """
    if chunks == 1:
        return function(*tensors)
    parts = []
    for pieces in zip(*(t.tensor_split(chunks) for t in tensors), strict=True):
        parts.append(checkpoint(function, *pieces, use_reentrant=False))
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))
