"""The model as the learner sees it: packed ids in, per-target statistics out, the head applied chunk by chunk."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from posttrain.stages.learner.rank.attention import Layout
from posttrain.stages.learner.rank.fused_functions import fused
from posttrain.stages.learner.rank.guides import Guide, entropy_of
from posttrain.stages.learner.rank.head import prepare_head, recomputed, weighted


class Policy(nn.Module):
    """Wraps a causal language model. DeepSpeed's engine wraps this, so the head is always called as a module
    (under ZeRO-3 its bare weight is an empty shard).
    """

    def __init__(self, model: Any, float32_head: bool = False) -> None:
        super().__init__()
        self.model = model
        self.plain_head = prepare_head(model.get_output_embeddings(), float32_head)
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
        weights: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Statistics a target, [S]: `logprobs` and `entropy` at `temperature`; with a guide, at temperature 1, and
        `divergence` and `agreement` too. The entropy has a gradient only if asked for.

        With `weights` [S] also `loss`, a scalar: the weighted sum of the divergence, or of minus the log-probability.
        The gradient is the loss's alone.

        `chunks` is the number of head calls, the same on all ranks.
        """
        hidden = self.hidden(ids, positions, layout, sources)
        labels = ids[targets]

        tensors = (labels,) if guide is None else (labels, *guide.tensors)
        gradient = entropy_gradient and torch.is_grad_enabled()

        def columns(logits: Tensor, label: Tensor, *theirs: Tensor) -> tuple[Tensor, ...]:
            if guide is not None:
                return guide.compare(logits, label, *theirs)
            logprobs, entropy = token_statistics(logits, label, temperature, gradient)
            return -logprobs, logprobs, entropy

        if weights is not None and torch.is_grad_enabled() and chunks > 1 and self.plain_head:
            head = self.model.get_output_embeddings()
            loss, *found = weighted(head, columns, hidden, weights, tensors, chunks)
        else:
            found = list(recomputed(lambda part, *rest: columns(self.logits(part), *rest), (hidden, *tensors), chunks))
            loss = hidden.new_zeros(()) if weights is None else (found[0] * weights).sum()
        named = dict(zip(("divergence", "logprobs", "entropy", "agreement"), found, strict=False))
        if guide is None:
            del named["divergence"]
        return named if weights is None else named | {"loss": loss}


@fused
def token_statistics(
    logits: Tensor, labels: Tensor, temperature: float, entropy_gradient: bool
) -> tuple[Tensor, Tensor]:
    """log pi(label) and entropy [n] at `temperature`, in float32, of logits [n, V]."""
    logits = logits.float()
    logprobs = F.log_softmax(logits if temperature == 1 else logits / temperature, dim=-1)
    entropy = -(logprobs.exp() * logprobs).sum(-1) if entropy_gradient else entropy_of(logprobs)
    return logprobs.gather(-1, labels[:, None])[:, 0], entropy
