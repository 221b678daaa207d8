"""Attention of one new token a row over a `RowCache`: two batched products, where PyTorch's CPU kernel is slower.

Registered with transformers under a name of its own; whatever isn't one token a row in float32 on a CPU (prefills, half
precision, GPUs) goes to transformers' attention by PyTorch's kernel.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from posttrain.stages.models.families import check_scores

NAME = "posttrain_rows"


def row_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: query [rows, heads, q, d], key and value [rows, kv heads, width, d], a bias
    that broadcasts to [rows, 1, q, width] (see RowCache.mask) -> [rows, q, heads, d]. With `sliding_window` a token
    attends to itself and the `sliding_window - 1` before it.

    Raises:
        InputError: the layer asks for what isn't computed here.
    """
    check_scores(type(module).__name__, kwargs)
    rows, heads, count, dim = query.shape
    kv = key.shape[1]
    special = dropout or kwargs.get("cache") is not None
    if sliding_window is not None and sliding_window < key.shape[2] and attention_mask is not None:
        attention_mask = _near(attention_mask, sliding_window)
    no_bias = attention_mask is not None and not attention_mask.is_floating_point()
    if count > 1 or query.is_cuda or query.dtype != torch.float32 or special or no_bias:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    # The heads that share keys are the rows of one product.
    grouped = query.reshape(rows, kv, heads // kv, dim)
    scores = torch.matmul(grouped, key.transpose(-1, -2)).mul_(dim**-0.5 if scaling is None else scaling)
    if attention_mask is not None:
        scores += attention_mask
    return torch.matmul(F.softmax(scores, dim=-1), value).view(rows, 1, heads, dim), None


def _near(bias: Tensor, window: int) -> Tensor:
    """A causal bias, further hidden where it is `window` tokens ago or more."""
    slots = torch.arange(bias.shape[-1], device=bias.device)
    own = (bias == 0).sum(-1, keepdim=True) - 1  # the last that a query may look at is itself
    return bias.masked_fill(slots <= own - window, -torch.inf)


AttentionInterface.register(NAME, row_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
