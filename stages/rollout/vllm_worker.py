"""What vLLM's workers can do beside their own methods: vLLM mixes this class into its Worker (worker_extension_cls)."""

from __future__ import annotations

import ctypes
import signal
from typing import Any

_PR_SET_PDEATHSIG = 1


class WorkerExtension:
    """Called by AsyncLLM.collective_rpc, in every worker process."""

    get_model: Any
    """The worker's own."""

    def weight_sum(self) -> tuple[float, float]:
        """Sums of |w| in float64: over the weights that are split over tensor-parallel ranks, and over the others.

        Merged weights (q, k and v in one) and padded rows, which are 0, change nothing about it. Where there are
        fewer key-value heads than ranks, each head counts more than once, and the sum agrees with nobody's.
        """
        import torch

        sums = {True: 0.0, False: 0.0}
        with torch.no_grad():
            for weight in self.get_model().parameters():
                split = hasattr(weight, "output_dim") or hasattr(weight, "input_dim")
                sums[split] += float(weight.abs().sum(dtype=torch.float64))
        return sums[True], sums[False]

    def drop_cached(self) -> None:
        """Give back what PyTorch keeps of freed memory.

        vLLM receives by NCCL on two more of PyTorch's 32 streams at every transfer, and what was freed on one isn't
        taken on another (vllm issue 52950): up to 32 buckets that its share of the GPU doesn't count.
        """
        import torch

        torch.cuda.empty_cache()

    def die_with_parent(self) -> None:
        """Have the system end this process, and free its GPU, when its parent is killed (Linux)."""
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
