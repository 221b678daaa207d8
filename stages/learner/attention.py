"""Packed attention for transformers models: each document attends to itself alone, by construction.

Registered under a name of its own, so that transformers builds no [T, T] mask. The linear layers see one row of T
tokens without padding; only here are the documents laid out as a batch. On CUDA in half precision PyTorch's
variable-length kernel runs on the packed row itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

NAME = "posttrain_packed"


@dataclass(frozen=True)
class Layout:
    """Where the documents of a packed row lie: `index` [documents, longest] into the row, `where` its inverse."""

    index: Tensor
    where: Tensor
    boundaries: Tensor
    longest: int

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> Layout:
        sizes = torch.tensor(lengths, device=device)
        boundaries = F.pad(sizes.cumsum(0), (1, 0)).to(torch.int32)
        longest = int(max(lengths))
        column = torch.arange(longest, device=device)
        # Slots behind a document's end repeat its last token: causality keeps them out of all real rows.
        index = boundaries[:-1, None] + torch.minimum(column[None], sizes[:, None] - 1)
        where = (torch.arange(len(lengths), device=device)[:, None] * longest + column)[column[None] < sizes[:, None]]
        return cls(index, where, boundaries, longest)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    layout: Layout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: query [1, heads, T, d], key and value [1, kv heads, T, d] -> [1, T, heads, d].

    Raises:
        ValueError: no layout was passed down: the model was called outside the learner.
    """
    if layout is None:
        raise ValueError(f"attention {NAME!r} needs the keyword `layout`")
    heads, dim = query.shape[1], query.shape[3]
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16):
        from torch.nn.attention.varlen import varlen_attn

        groups = heads // key.shape[1]
        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
        if groups > 1:
            k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        out = varlen_attn(
            q.contiguous(), k.contiguous(), v.contiguous(), layout.boundaries, layout.boundaries,
            layout.longest, layout.longest, scale=scaling, window_size=(-1, 0),
        )  # fmt: skip
        assert isinstance(out, Tensor)  # a tuple only if asked for the log-sum-exp
        return out.unsqueeze(0), None
    # [1, heads, T, d] -> [documents, heads, longest, d]
    q, k, v = (x[0][:, layout.index].transpose(0, 1) for x in (query, key, value))
    out = F.scaled_dot_product_attention(
        q, k, v, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=key.shape[1] != heads
    )
    flat = out.transpose(1, 2).reshape(-1, heads, dim)
    return flat[layout.where].unsqueeze(0), None


AttentionInterface.register(NAME, packed_attention)
