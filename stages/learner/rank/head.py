"""The output head over many targets, a chunk at a time: no [targets, vocabulary] tensor exists.

Where a token's weight in the loss is known before the forward pass (supervised and distillation losses), a chunk's
gradient is taken while its logits are there, as in Liger Kernel (2410.10989, 3.2): three products with the head in all,
and one with a teacher's. Where it isn't (a policy gradient's ratio), the chunk is computed again in the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from posttrain.errors import InputError

CHUNK_ELEMENTS = 1 << 25
"""Most logits alive at once (128 MiB in float32): a chunk has CHUNK_ELEMENTS // vocabulary targets."""
FUSED_CHUNK_ELEMENTS = 1 << 27
"""The same where what follows is compiled (256 MiB in bfloat16): products of fewer rows would leave a GPU waiting."""

Statistics = Callable[..., tuple[Tensor, ...]]
"""Of a chunk's logits [n, V] and its rows of other tensors: columns [n]."""


def chunk_size(vocabulary: int, *, fused: bool) -> int:
    """Targets of a chunk; `fused`: nothing of the logits' size but they and their gradient exists."""
    return max(1, (FUSED_CHUNK_ELEMENTS if fused else CHUNK_ELEMENTS) // vocabulary)


def prepare_head(head: Any, float32: bool) -> bool:
    """Have a plain output layer take a job beside its states; says whether it is one.

    Jobs run inside the module's call, as under ZeRO-3 its weight is whole there alone. `float32`: it multiplies in
    float32 whatever its weights are in.

    Raises:
        InputError: it isn't, and `float32` was asked for.
    """
    if type(head) is not nn.Linear or head.bias is not None:
        if float32:
            raise InputError(
                "a head in float32 must be a plain linear layer, without bias or adapter", where="cluster.learner",
                fix="leave float32_head out, or lm_head out of lora.targets",
            )  # fmt: skip
        return False

    def forward(hidden: Tensor, job: Callable[[Tensor, Tensor], Any] | None = None) -> Any:
        weight: Tensor = head.weight
        if float32:
            hidden, weight = hidden.float(), weight.float()
        return F.linear(hidden, weight) if job is None else job(hidden, weight)

    head.forward = forward
    return True


def recomputed(function: Statistics, tensors: tuple[Tensor, ...], chunks: int) -> tuple[Tensor, ...]:
    """Apply `function` to `chunks` slices and join the results; computed again in the backward pass if over one.

    Slices may be empty: a rank with fewer targets still calls the head as often as the others.
    """
    if chunks == 1:
        return function(*tensors)
    parts = []
    for pieces in zip(*(t.tensor_split(chunks) for t in tensors), strict=True):
        parts.append(checkpoint(function, *pieces, use_reentrant=False))
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))


def weighted(
    head: Any, function: Statistics, hidden: Tensor, weights: Tensor, tensors: tuple[Tensor, ...], chunks: int
) -> tuple[Tensor, ...]:
    """The sum of `weights` [S] times the first column of `function`, a scalar with its gradient to `hidden` [S, d] and
    the head, and all columns [S], which have none.
    """
    columns: tuple[Tensor, ...] = head(
        hidden, job=lambda states, weight: _Weighted.apply(states, weight, weights, function, chunks, *tensors)
    )
    return columns


class _Weighted(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, weights: Tensor, function: Statistics, chunks: int, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        to_hidden = torch.empty_like(hidden)
        to_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        parts, total = [], hidden.new_zeros((), dtype=torch.float32)
        slices = (t.tensor_split(chunks) for t in (hidden, to_hidden, weights, *tensors))
        for states, gradient, share, *pieces in zip(*slices, strict=True):
            logits = F.linear(states, weight).requires_grad_()
            with torch.enable_grad():
                columns = function(logits, *pieces)
                loss = (columns[0] * share).sum()
            (to_logits,) = torch.autograd.grad(loss, logits)
            torch.mm(to_logits, weight, out=gradient)
            if to_weight is not None:
                to_weight.addmm_(to_logits.T, states)
            total += loss.detach()
            parts.append([c.detach() for c in columns])
        ctx.save_for_backward(to_hidden, *([] if to_weight is None else [to_weight]))
        found = tuple(torch.cat(column) for column in zip(*parts, strict=True))
        ctx.mark_non_differentiable(*found)
        return (total, *found)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        scale = gradients[0]
        to_hidden, *to_weight = (saved.mul_(scale) for saved in ctx.saved_tensors)  # in place: the head's is large
        rest = (None,) * (len(ctx.needs_input_grad) - 2)
        return to_hidden, to_weight[0] if to_weight else None, *rest
