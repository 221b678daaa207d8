"""A key-value cache whose rows have their own lengths: no left padding, rows leave the batch when they are done."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

BLOCK = 16  # attention reads the cache up to a multiple of this: few distinct shapes


class RowCache:
    """Buffers [rows, kv heads, capacity, d] a layer, the keys' transposed; transformers calls `update`.

    Say with `place` where the new tokens go before each forward pass, and pass `mask()` to the model.
    """

    def __init__(
        self, config: PreTrainedConfig, rows: int, capacity: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        heads = config.num_key_value_heads
        dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        layers = range(config.num_hidden_layers)
        self.keys = [torch.zeros(rows, heads, dim, capacity, dtype=dtype, device=device) for _ in layers]
        self.values = [torch.zeros(rows, heads, capacity, dim, dtype=dtype, device=device) for _ in layers]
        self.capacity, self.dtype = capacity, dtype
        self.positions = torch.zeros(rows, 1, dtype=torch.long, device=device)
        self.width = 0

    def place(self, positions: Tensor) -> None:
        """Say where the next tokens go: [rows, q], ascending within a row."""
        self.positions = positions
        longest = int(positions.max()) + 1
        self.width = min(self.capacity, -(-longest // BLOCK) * BLOCK)
        self.rows = torch.arange(len(positions), device=positions.device)[:, None]

    def mask(self) -> Tensor:
        """[rows, 1, q, width]: 0 where a query may look, minus infinity elsewhere."""
        slots = torch.arange(self.width, device=self.positions.device)
        hidden = slots > self.positions[:, :, None]
        return torch.zeros_like(hidden, dtype=self.dtype).masked_fill_(hidden, -torch.inf)[:, None]

    def update(self, key: Tensor, value: Tensor, layer: int, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """transformers' Cache.update: store [rows, heads, q, d], give back all keys and values up to `width`."""
        self.keys[layer][self.rows, :, :, self.positions] = key.transpose(1, 2)
        self.values[layer][self.rows, :, self.positions] = value.transpose(1, 2)
        return self.keys[layer][..., : self.width].transpose(-1, -2), self.values[layer][:, :, : self.width]

    def get_seq_length(self, layer: int = 0) -> int:
        """Only asked when no positions are given, which never happens here."""
        return self.width

    def select(self, rows: Tensor) -> None:
        """Keep (or repeat) these rows."""
        self.keys = [k[rows] for k in self.keys]
        self.values = [v[rows] for v in self.values]
