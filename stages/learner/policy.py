"""The model as the learner sees it: packed ids in, per-target statistics out, the head applied chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from posttrain.stages.learner.attention import Layout
from posttrain.stages.learner.fused import fused
from posttrain.stages.learner.guides import Guide, entropy_of

CHUNK_ELEMENTS = 1 << 25
"""Most logits alive at once (128 MiB in float32): a chunk has CHUNK_ELEMENTS // vocabulary targets."""
GPU_CHUNK_ELEMENTS = 1 << 27
"""The same on a GPU (256 MiB in bfloat16): matrix products of fewer rows would leave it waiting."""


def chunk_size(vocabulary: int, cuda: bool) -> int:
    return max(1, (GPU_CHUNK_ELEMENTS if cuda else CHUNK_ELEMENTS) // vocabulary)


class Policy(nn.Module):
    """Wraps a causal language model. DeepSpeed's engine wraps this, so the head is always called as a module
    (under ZeRO-3 its bare weight is an empty shard).
    """

    def __init__(self, model: Any, float32_head: bool = False) -> None:
        super().__init__()
        self.model = model
        if float32_head:
            head = model.get_output_embeddings()
            # Still called as the module that it is: under ZeRO-3 that is what gathers its weight.
            head.forward = lambda hidden: F.linear(hidden.float(), head.weight.float())
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
        """Logits [n, V] of the head, in the precision in which it multiplies."""
        logits: Tensor = self.model.get_output_embeddings()(hidden)
        return logits

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

        if guide is None:
            gradient = entropy_gradient and torch.is_grad_enabled()

            def stats(part: Tensor, label: Tensor) -> tuple[Tensor, ...]:
                return token_statistics(self.logits(part), label, temperature, gradient)

            chosen, entropy = run_chunks(stats, (hidden, labels), chunks)
            return {"logprobs": chosen, "entropy": entropy}

        def compare(part: Tensor, label: Tensor, *theirs: Tensor) -> tuple[Tensor, ...]:
            return guide.compare(self.logits(part), label, *theirs)

        distance, chosen, entropy, agree = run_chunks(compare, (hidden, labels, *guide.tensors), chunks)
        return {"divergence": distance, "logprobs": chosen, "entropy": entropy, "agreement": agree}


@fused
def token_statistics(
    logits: Tensor, labels: Tensor, temperature: float, entropy_gradient: bool
) -> tuple[Tensor, Tensor]:
    """log pi(label) and entropy [n] at `temperature`, in float32, of logits [n, V]."""
    logits = logits.float()
    logprobs = F.log_softmax(logits if temperature == 1 else logits / temperature, dim=-1)
    entropy = -(logprobs.exp() * logprobs).sum(-1) if entropy_gradient else entropy_of(logprobs)
    return logprobs.gather(-1, labels[:, None])[:, 0], entropy


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
