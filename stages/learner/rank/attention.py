"""Packed attention for transformers models: each document attends to itself alone, by construction.

Registered under a name of its own, so that transformers builds no [T, T] mask. The linear layers see one row of T
tokens without padding; only here are the documents laid out as a batch. On CUDA in half precision PyTorch's
variable-length kernel runs on the packed row itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from inspect import signature
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AttentionInterface

from posttrain.stages.learner.rank.packing import PackedBatch
from posttrain.stages.models.families import check_scores

NAME = "posttrain_packed"
PART = 16
"""About how many documents a padded batch has: less padding in more, smaller calls."""


@dataclass(frozen=True)
class Layout:
    """Where the documents of a packed row lie.

    T tokens in the row, N in the documents: more, where they share a prefix, whose queries each of them repeats.
    """

    padded: Tensor
    """Into the row: parts of documents of like lengths, laid flat one behind the other."""
    parts: tuple[tuple[int, int], ...]
    """Each part's documents, and the longest of them."""
    where: Tensor
    """[T], one place of each token in `padded`."""
    rows: Tensor | None
    """[N] into the row; None where nothing is shared, and it would be 0 to T - 1."""
    first: Tensor
    """[T], one place of each token in `rows`."""
    boundaries: Tensor
    """[documents + 1] into `rows`."""
    longest: int

    @classmethod
    def of(cls, batch: PackedBatch, device: torch.device) -> Layout:
        """A micro-batch's layout, on a device."""
        sizes = np.array(batch.lengths)
        boundaries = np.concatenate([[0], sizes.cumsum()])
        padded, where, end = [], np.zeros(len(batch.ids), np.int64), 0
        for part in np.array_split(np.argsort(sizes, kind="stable"), -(-len(sizes) // PART)):
            column, own = np.arange(sizes[part].max()), sizes[part, None]
            # Slots behind a document's end repeat its last token: causality keeps them out of all real rows.
            index = batch.rows[boundaries[part, None] + np.minimum(column, own - 1)]
            slots = end + np.arange(index.size).reshape(index.shape)
            where[index[column < own]] = slots[column < own]
            padded.append(index)
            end += index.size
        first = np.unique(batch.rows, return_index=True)[1]

        def there(array: NDArray[np.int64]) -> Tensor:
            return torch.from_numpy(array).to(device)

        return cls(
            there(np.concatenate([p.ravel() for p in padded])), tuple(p.shape for p in padded), there(where),
            there(batch.rows) if len(batch.rows) > len(batch.ids) else None,
            there(first), there(boundaries).to(torch.int32), int(sizes.max()),
        )  # fmt: skip


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    layout: Layout | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: query [1, heads, T, d], key and value [1, kv heads, T, d] -> [1, T, heads, d].

    With `sliding_window` a token attends to itself and the `sliding_window - 1` before it.

    Raises:
        ValueError: no layout was passed down: the model was called outside the learner.
        InputError: the layer asks for what isn't computed here.
    """
    if layout is None:
        raise ValueError(f"attention {NAME!r} needs the keyword `layout`")
    check_scores(type(module).__name__, kwargs)
    heads, dim = query.shape[1], query.shape[3]
    window = sliding_window if sliding_window is not None and sliding_window < layout.longest else None
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16):
        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
        if layout.rows is not None:
            q, k, v = q[layout.rows], k[layout.rows], v[layout.rows]
        out = _varlen()(
            q.contiguous(), k.contiguous(), v.contiguous(), layout.boundaries, layout.boundaries,
            layout.longest, layout.longest, scale=scaling, window_size=(-1 if window is None else window - 1, 0),
        )  # fmt: skip
        assert isinstance(out, Tensor)  # a tuple only if asked for the log-sum-exp
        return (out if layout.rows is None else out[layout.first]).unsqueeze(0), None
    # index_select has the fast backward; gathering for all parts at once, it has one
    gathered = [x[0].transpose(0, 1).index_select(0, layout.padded) for x in (query, key, value)]
    pieces = [x.split([documents * longest for documents, longest in layout.parts]) for x in gathered]
    flat = []
    for shape, *piece in zip(layout.parts, *pieces, strict=True):
        # [documents x longest, heads, d] -> [documents, heads, longest, d]
        q, k, v = (x.unflatten(0, shape).transpose(1, 2) for x in piece)
        near = None if window is None else _near(shape[1], window, query.device)
        out = F.scaled_dot_product_attention(
            q, k, v, near, dropout_p=dropout, is_causal=near is None, scale=scaling, enable_gqa=key.shape[1] != heads
        )
        flat.append(out.transpose(1, 2).reshape(-1, heads, dim))
    return torch.cat(flat)[layout.where].unsqueeze(0), None


@cache
def _varlen() -> Callable[..., Any]:
    """PyTorch's kernel, imported where it is used: with it comes the compiler, two seconds of a CPU learner's start.

    PyTorch 2.13 wants to be told of grouped heads, 2.11 takes them and has no word for it.
    """
    from torch.nn.attention.varlen import varlen_attn

    grouped: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in signature(varlen_attn).parameters else {}
    return partial(varlen_attn, **grouped)


def _near(longest: int, window: int, device: torch.device) -> Tensor:
    """[longest, longest]: whom each token of a document attends to."""
    place = torch.arange(longest, device=device)
    ago = place[:, None] - place
    return (ago >= 0) & (ago < window)


AttentionInterface.register(NAME, packed_attention)
