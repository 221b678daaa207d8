"""The full weights of the model that is trained, whatever ZeRO and adapters have made of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from posttrain.stages.models.model_files import merged_names

BUCKET_BYTES = 256 << 20


def named_weights(model: Any, *, sharded: bool) -> Iterator[tuple[str, torch.Tensor]]:
    """Each full weight of the plain model, adapters merged; `sharded` (ZeRO-3), gathered a bucket at a time."""
    import deepspeed

    # Merged aside, not in place: adding and subtracting would wear the base's last bits off at every sync.
    adapters = {f"{name}.base_layer.weight": m for name, m in model.named_modules() if hasattr(m, "get_delta_weight")}
    with deepspeed.zero.GatheredParameters(list(model.parameters()), enabled=sharded and bool(adapters)):
        for bucket in _buckets(model.named_parameters()):
            with deepspeed.zero.GatheredParameters([p for _, p in bucket], enabled=sharded and not adapters):
                for name, parameter in bucket:
                    plain = merged_names(name) if adapters else name
                    if plain is None:
                        continue
                    weight = parameter.detach()
                    if name in adapters:
                        weight = weight + adapters[name].get_delta_weight("default").detach()
                    yield plain, weight


def _buckets(
    named: Iterator[tuple[str, torch.nn.Parameter]],
) -> Iterator[list[tuple[str, torch.nn.Parameter]]]:
    """Parameters in order, in buckets of at most BUCKET_BYTES by their full size (`ds_numel` under ZeRO-3)."""
    bucket: list[tuple[str, torch.nn.Parameter]] = []
    size = 0
    for name, parameter in named:
        full = int(getattr(parameter, "ds_numel", parameter.numel())) * parameter.element_size()
        if bucket and size + full > BUCKET_BYTES:
            yield bucket
            bucket, size = [], 0
        bucket.append((name, parameter))
        size += full
    if bucket:
        yield bucket
