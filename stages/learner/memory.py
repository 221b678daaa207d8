"""What a rank's tensors take of its GPU, as metrics of a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

GIB = float(1 << 30)
PEAK, HELD = MEMORY = ("gpu_peak_gib", "gpu_gib")
"""The most since it was asked before, and now. What PyTorch keeps of freed memory doesn't count."""


def measure(cuda: bool) -> dict[str, float]:
    """Of this process's GPU, GiB; 0 on a CPU. The next peak counts from here."""
    if not cuda:
        return dict.fromkeys(MEMORY, 0.0)
    import torch

    found = {PEAK: torch.cuda.max_memory_allocated() / GIB, HELD: torch.cuda.memory_allocated() / GIB}
    torch.cuda.reset_peak_memory_stats()
    return found


def most(ranks: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of each measure that the ranks have: the largest."""
    return {name: max(rank[name] for rank in ranks) for name in MEMORY if name in ranks[0]}
