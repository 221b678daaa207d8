"""What vLLM's workers can do beside their own methods: vLLM mixes this class into its Worker (worker_extension_cls)."""

from __future__ import annotations

import ctypes
import signal
from typing import Any

_PR_SET_PDEATHSIG = 1


AS_LOADED = {"UnquantizedLinearMethod", "UnquantizedEmbeddingMethod"}
"""vLLM's methods (0.26) that compute, on a GPU, with weights as the checkpoint has them."""


def loads_in_place(model: Any) -> bool:
    """Whether this model's loaders may write over its weights as they stand: nothing is made of them after loading.

    If not (quantized layers, experts, latent attention), vLLM unfolds each layer into what a checkpoint holds, loads
    it, and folds it again: about 0.1 s of Python for 28 layers, whatever their size.
    """
    for module in model.modules():
        method = getattr(module, "quant_method", None)
        if method is not None and type(method).__name__ not in AS_LOADED:
            return False
        if hasattr(module, "process_weights_after_loading") and type(module).__name__ != "Attention":
            return False
    return True


class WorkerExtension:
    """Called by AsyncLLM.collective_rpc, in every worker process."""

    get_model: Any
    weight_transfer_engine: Any
    start_weight_update: Any
    update_weights: Any
    finish_weight_update: Any
    """The worker's own, all five."""
    in_place = False

    def begin_weights(self) -> None:
        """New weights are about to come."""
        self.in_place = loads_in_place(self.get_model())
        if not self.in_place:
            self.start_weight_update()

    def take_weights(self, update_info: dict[str, Any]) -> None:
        """Some of them, as vLLM's transfer engine wants them told: read, and where they belong when this returns."""
        if self.in_place:
            self.weight_transfer_engine.update_weights(update_info)
        else:
            self.update_weights(update_info)

    def end_weights(self) -> None:
        """All are here."""
        if not self.in_place:
            self.finish_weight_update()

    def weight_sums(self) -> list[float] | None:
        """Sum of |w| in float64 of each of this rank's weights, in one order on all ranks.

        None where there are fewer key-value heads than tensor-parallel ranks: some ranks then have the same heads
        within what is otherwise split. Merged weights (q, k and v in one) and padded rows, which are 0, change nothing.
        """
        import torch

        model = self.get_model()
        if any(getattr(module, "num_kv_head_replicas", 1) > 1 for module in model.modules()):
            return None
        with torch.no_grad():
            sums = [weight.abs().sum(dtype=torch.float64) for weight in model.parameters()]
            return [float(number) for number in torch.stack(sums).tolist()]

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
