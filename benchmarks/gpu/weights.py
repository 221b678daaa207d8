"""Seconds from the learner's weights to the engine's, all sums compared, against one plain copy of the same bytes.

Colocated (`--gpus 0.5`, CUDA IPC) or apart (`--gpus 1` on two GPUs, NCCL). The time is that of the whole update as a
training step waits for it: pause, buckets, vLLM's loaders, and, in rows marked so, the sums on both sides. Of a
transfer without sums: how long vLLM took to pause, the buckets to go (by IPC, of it, to be read), vLLM to resume.
What the learner's memory is after the first updates and after the last ones is said too, in tensors and as PyTorch
keeps it: beyond what one transfer takes, only the first may keep some.
"""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack
from statistics import median
from typing import Any

import machine

GB = 1e9


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shape", choices=machine.SHAPES, default="0.6b")
    parser.add_argument("--gpus", type=float, default=0.5, help="of each side: 0.5 shares one, 1 takes two, 0 none")
    parser.add_argument("--engine", choices=["vllm", "transformers"], default="vllm")
    parser.add_argument("--zero", type=int, choices=[0, 1, 2, 3], default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", type=float, default=0.3)
    parser.add_argument("--eager", action="store_true", help="no CUDA graphs: starts sooner, copies the same")


def run(options: argparse.Namespace) -> None:
    import ray

    from posttrain.configs.schema import Cluster, LearnerCluster, Optimizer, RolloutCluster
    from posttrain.stages.models.model_files import ModelSpec

    own: dict[str, Any] = {}
    if options.engine == "vllm":  # every second transfer is checked
        own = {"engine": "vllm", "memory": options.memory, "eager": options.eager, "check_weights": 2}
    cluster = Cluster(
        learner=LearnerCluster(gpus=options.gpus, dtype="bfloat16", zero=options.zero),
        rollout=RolloutCluster(gpus=options.gpus, dtype="bfloat16", **own),
    )
    with ExitStack() as stack:
        spec = ModelSpec(path=stack.enter_context(machine.random_checkpoint(options.shape)))
        workers = stack.enter_context(machine.actors(cluster))
        learner, pool, began = workers.learner(), workers.rollout(), time.monotonic()
        learner.load(spec, Optimizer())
        print(f"learner loaded after {time.monotonic() - began:.0f} s", flush=True)
        size = int(learner.sizes["parameters"]) * 2
        pool.follow(learner)
        pool.load(spec)
        print(f"both sides have met after {time.monotonic() - began:.0f} s", flush=True)
        way = pool._path.backend or "object store" if pool._path else ""
        times: dict[bool, list[float]] = {True: [], False: []}
        held: list[dict[str, float]] = []
        parts: list[dict[str, float]] = []
        for number in range(-1, options.rounds):
            for check in times:
                began = time.monotonic()
                pool.update_weights(2 * number + check)
                times[check] += [time.monotonic() - began] if number >= 0 else []
                if way in ("ipc", "nccl") and number >= 0 and not check:
                    asked = learner.actors[0].__ray_call__.remote(lambda rank: rank.sender.seconds)
                    parts.append(ray.get(asked, timeout=60))
            held.append(learner.memory())
        pool.free()
    copied = plain_copy(size, options.gpus)
    print(f"\n{options.shape}, {size / GB:.2f} GB in bfloat16, ZeRO-{options.zero}, median of {options.rounds}:")
    print(f"{'':<26}{'seconds':>9}{'GB/s':>9}")
    rows = [(way, median(times[False])), (f"{way}, sums compared", median(times[True])), ("a plain copy", copied)]
    for name, seconds in rows:
        print(f"{name:<26}{seconds:>9.4f}{size / GB / seconds:>9.1f}", flush=True)
    if parts:
        found = {name: median(part.get(name, 0.0) for part in parts) for name in parts[0]}
        print("of it: " + ", ".join(f"{name} {seconds:.4f} s" for name, seconds in found.items()), flush=True)
    print("the learner's GPU memory after the first and the last updates, GiB:", end=" ")
    print(", ".join(f"{m['gpu_gib']:.2f} in tensors and {m['gpu_reserved_gib']:.2f} kept" for m in (held[0], held[-1])))


def plain_copy(size: int, gpus: float) -> float:
    """Seconds of a copy of `size` bytes: on the first GPU, to the second, or in memory; median of ten."""
    import torch

    source = torch.randint(0, 256, (size,), dtype=torch.uint8, device="cuda:0" if gpus else "cpu")
    target = torch.empty_like(source, device="cuda:1" if gpus >= 1 else source.device)
    wait = torch.cuda.synchronize if gpus else (lambda: None)
    times = []
    for _ in range(13):
        wait()
        began = time.monotonic()
        target.copy_(source)
        wait()
        times.append(time.monotonic() - began)
    return float(median(times[3:]))
