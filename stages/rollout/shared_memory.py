"""Memory of the learner's GPU that vLLM's workers on the same GPU read: one piece a process, filled a bucket at a time.

What is told of a bucket, and how it is read, is vLLM's (packed_ipc_consumer, 0.26); the sender's side is ours. PyTorch
counts who reads shared memory, and frees it at a count of zero. vLLM is told of it once and lets go after every bucket,
so the count falls below: its own sender, which takes new memory for every transfer, gets none of it back (vllm issue
51258; seen: a bucket a transfer). This one takes memory once, and keeps it when its learner drops the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass
class Bucket:
    """Weights that lie behind one another in a buffer, as vLLM wants them told."""

    names: list[str] = field(default_factory=list)
    dtype_names: list[str] = field(default_factory=list)
    shapes: list[list[int]] = field(default_factory=list)
    tensor_sizes: list[int] = field(default_factory=list)
    """Bytes."""

    def add(self, name: str, weight: Tensor) -> None:
        """The next one."""
        self.names.append(name)
        self.dtype_names.append(str(weight.dtype).removeprefix("torch."))
        self.shapes.append(list(weight.shape))
        self.tensor_sizes.append(weight.nbytes)


class SharedBuffer:
    """Bytes on this process's GPU, and what another process needs to read them."""

    def __init__(self, size: int) -> None:
        self.bytes, self.handle = export(size)

    def fill(self, weights: Iterator[tuple[str, Tensor]], size: int) -> Iterator[Bucket]:
        """Bucket after bucket of at most `size` bytes: each is overwritten when the next one is asked for."""
        bucket, end = Bucket(), 0
        for name, weight in weights:
            flat = weight.detach().contiguous().view(torch.uint8).view(-1)
            if bucket.names and end + len(flat) > size:
                yield bucket
                bucket, end = Bucket(), 0
            self.bytes[end : end + len(flat)].copy_(flat)
            bucket.add(name, weight)
            end += len(flat)
        if bucket.names:
            yield bucket


def export(size: int) -> tuple[Tensor, dict[str, Any]]:
    """`size` bytes of GPU memory, and how they are opened elsewhere: by the GPU's id.

    `wait_for_all` says when they may be read. The event that PyTorch would have the reader wait for was over before
    anything was written, and every reading opens it anew and keeps it: it isn't told of.
    """
    from torch.multiprocessing.reductions import reduce_tensor

    memory = torch.empty(size, dtype=torch.uint8, device="cuda")
    gpu = torch.cuda.get_device_properties(memory.device).uuid
    *arguments, _waits = reduce_tensor(memory)[1]
    return memory, {str(gpu): (*arguments, False)}


_kept: list[SharedBuffer] = []
"""The last is in use. Dropping one wouldn't free it, and vLLM may have the one before open."""


def shared_buffer(size: int) -> SharedBuffer:
    """This process's buffer, of at least `size` bytes: a larger one than before is new memory beside the old one."""
    if not _kept or len(_kept[-1].bytes) < size:
        _kept.append(SharedBuffer(size))
    return _kept[-1]


def handles_of_all(own: dict[str, Any]) -> dict[str, Any]:
    """Every rank's, by GPU: each of vLLM's workers opens its own GPU's."""
    if not _several():
        return own
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, own)
    return {gpu: handle for theirs in found for gpu, handle in theirs.items()}


def wait_for_all() -> None:
    """All ranks' copies are done, or all of vLLM's are."""
    torch.cuda.synchronize()
    if _several():
        dist.barrier()


def _several() -> bool:
    return dist.is_initialized() and dist.get_world_size() > 1
