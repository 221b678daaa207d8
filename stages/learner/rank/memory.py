"""What a rank takes of its GPU, as metrics of a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

GIB = float(1 << 30)
PEAK, HELD, RESERVED = MEMORY = ("gpu_peak_gib", "gpu_gib", "gpu_reserved_gib")
"""In tensors: the most since it was asked before, and now. And now with what PyTorch keeps of freed memory."""


def measure(cuda: bool) -> dict[str, float]:
    """Of this process's GPU, GiB; 0 on a CPU. The next peak counts from here."""
    if not cuda:
        return dict.fromkeys(MEMORY, 0.0)
    import torch

    read = (torch.cuda.max_memory_allocated(), torch.cuda.memory_allocated(), torch.cuda.memory_reserved())
    torch.cuda.reset_peak_memory_stats()
    return {name: size / GIB for name, size in zip(MEMORY, read, strict=True)}


def most(ranks: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of each measure that the ranks have: the largest."""
    return {name: max(rank[name] for rank in ranks) for name in MEMORY if name in ranks[0]}
