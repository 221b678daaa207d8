"""DeepSpeed's engine around a policy: AdamW, its decay groups, ZeRO, precision, offload."""

from __future__ import annotations

from typing import Any

import torch

from posttrain.configs.schema import LearnerCluster, Optimizer
from posttrain.errors import RunError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
ALONE = 50_000_000
"""Weights whose gradients one rank by itself puts together at a time."""


def start_engine(policy: torch.nn.Module, optimizer: Optimizer, settings: LearnerCluster, zero: int) -> Any:
    """An engine that is ready to train the parameters that want gradients, in ZeRO stage `zero`."""
    import deepspeed

    adam = torch.optim.AdamW(
        _decay_groups(policy, optimizer.weight_decay), lr=optimizer.lr, betas=optimizer.betas,
        fused=settings.gpus > 0 and not settings.offload_optimizer,
    )  # fmt: skip
    trainable = [p for p in policy.parameters() if p.requires_grad]
    config = _config(optimizer, settings, zero)
    if zero == 3 and settings.workers > 1:
        _cut_up(policy, config, DTYPES[settings.dtype])
    engine, *_ = deepspeed.initialize(model=policy, optimizer=adam, model_parameters=trainable, config=config)
    if zero == 2 and settings.dtype == "bfloat16" and not settings.offload_optimizer:
        _trust_the_norm(engine.optimizer)
    return engine


def _cut_up(policy: torch.nn.Module, config: dict[str, Any], dtype: torch.dtype) -> None:
    """Move the weights to this rank's device one after the other, each cut up before the next one comes.

    Left to DeepSpeed's engine, the whole model goes there first: 66 GB of a 32B model's, where a shard has 2.
    """
    import deepspeed

    for weight in policy.parameters():  # adapters may have another precision
        weight.data = weight.data.to(dtype)
    deepspeed.zero.Init(module=policy, config_dict_or_path=config, dtype=dtype)
    device = deepspeed.get_accelerator().current_device_name()
    for buffer in policy.buffers():  # these are whole on each rank
        buffer.data = buffer.data.to(device)


def forget(sharded: Any) -> None:
    """Have sums of gradients that were not finite gone, where DeepSpeed 0.19 keeps them: offloaded, in ZeRO-2."""
    if getattr(sharded, "cpu_offload", False):
        for group in getattr(sharded, "averaged_gradients", {}):
            sharded.averaged_gradients[group] = None


def _trust_the_norm(sharded: Any) -> None:
    """Leave out a look through every gradient for what isn't finite, eleven kernels each (DeepSpeed 0.19).

    The norm over all of them, which is computed anyway, isn't finite then either, and drops the step on all ranks.
    """
    if not (sharded.compute_grad_norm and sharded.check_grad_overflow):
        raise RunError("this DeepSpeed doesn't drop a step by its gradients' norm", fix="install deepspeed 0.19")
    sharded.check_overflow = lambda partition_gradients=True: None


def _config(optimizer: Optimizer, settings: LearnerCluster, zero: int) -> dict[str, Any]:
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,  # boundaries are set by hand: a step has as many passes as it needs
        "gradient_clipping": optimizer.clip_norm,
        "zero_optimization": {"stage": zero, "overlap_comm": False},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }
    if settings.workers == 1 and zero < 3:  # it sends its gradients to nobody: no bucket of a GiB for that
        config["zero_optimization"] |= {"contiguous_gradients": False, "reduce_bucket_size": ALONE}
    if settings.offload_optimizer:
        config["zero_optimization"]["offload_optimizer"] = {"device": "cpu", "pin_memory": settings.gpus > 0}
    if settings.dtype == "bfloat16":
        config["bf16"] = {"enabled": True, "check_grad_overflow": True}
        config["data_types"] = {"grad_accum_dtype": "fp32"}  # of micro-batches; ranks reduce them in bfloat16
    return config


def _decay_groups(module: torch.nn.Module, decay: float) -> list[dict[str, Any]]:
    """Weight decay on matrices only: norms and biases aren't decayed."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    if decay == 0:
        return [{"params": trainable, "weight_decay": 0.0}]
    matrices = [p for p in trainable if p.ndim >= 2]
    rest = [p for p in trainable if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": rest, "weight_decay": 0.0}]
    return [g for g in groups if g["params"]]
