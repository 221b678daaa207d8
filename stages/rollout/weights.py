"""How the learner's weights get into the rollout workers: by where the two stand, and by nothing else.

    engine transformers          float32 arrays in Ray's object store, which is shared memory on one host
    vllm, on the learner's GPUs  CUDA IPC: vLLM reads a bucket of the learner's memory, then the next one
    vllm, on GPUs of its own     NCCL broadcast from the learner's first rank

The last two go into vLLM's own transfer engines (vllm/distributed/weight_transfer, 0.26), packed into buckets. Under
ZeRO-3 the learner gathers one of its buckets at a time. It holds a bucket more, with IPC from the first transfer on for
good; vLLM holds a bucket and a layer while they come.
"""

from __future__ import annotations

import base64
import pickle
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import ray

from posttrain.errors import RunError
from posttrain.stages.actors.ray_calls import answers

if TYPE_CHECKING:
    import torch

    from posttrain.stages.learner.ranks import Learner

BUCKET = 256 << 20
"""Bytes that travel at once; one weight that is larger travels alone."""
STRANDED = 8 << 30
"""Bytes of the learner's GPU that transfers by NCCL may leave behind before PyTorch gives them back."""
PART_TIMEOUT = 900.0
"""Seconds for one bucket, or for the two sides to meet: longer than the engine's own patience, which says more."""

Shapes = Sequence[tuple[str, Sequence[int]]]


class WeightPath(Protocol):
    """From one learner to one pool's workers."""

    backend: str
    """vLLM's name of it; empty where vLLM has no part in it."""

    def open(self) -> None:
        """The engines are up: have both sides meet."""
        ...

    def send(self, version: int, check: bool) -> list[Any]:
        """Ray references to wait for; where `check`, the sums of both sides are compared before `version` is theirs."""
        ...


class ObjectStore:
    """Through shared memory; whoever reads the references gets each worker's checksum."""

    backend = ""

    def __init__(self, learner: Learner, workers: Sequence[Any]) -> None:
        self._learner, self._workers = learner, workers

    def open(self) -> None:
        """Nothing to prepare."""

    def send(self, version: int, check: bool) -> list[Any]:
        """See WeightPath. Always checked: a sum costs little against the copies."""
        weights = self._learner.weights()
        return [worker.update_weights.remote(weights, version) for worker in self._workers]


class DevicePath:
    """From GPU to GPU: the learner's ranks hold the sender, and drive it."""

    def __init__(self, learner: Learner, sender: IpcSender | NcclSender) -> None:
        self._learner, self._sender = learner, sender
        self.backend = sender.backend

    def open(self) -> None:
        """Gives every rank the sender."""
        self._learner.connect(self._sender)

    def send(self, version: int, check: bool) -> list[Any]:
        """See WeightPath."""
        return self._learner.send_weights(version, check)


def path_between(
    learner: Learner, workers: Sequence[Any], engine: str, parallel: int, dtype: str, *, sleep: bool = False
) -> WeightPath:
    """The way from this learner to these workers, of which each spans `parallel` GPUs, and sleeps between transfers.

    Raises:
        RunError: there is none.
    """
    if engine == "transformers":
        return ObjectStore(learner, workers)
    if not learner.settings.gpus:
        raise RunError(
            "vLLM takes weights from GPU to GPU, and the learner stands on the CPU", where="cluster.learner.gpus",
            fix="say learner: {gpus: 1}, or 0.5 beside rollout: {gpus: 0.5} on one GPU; or use engine: transformers",
        )  # fmt: skip
    theirs = [_place(worker) for worker in workers]
    own = set().union(*(_place(actor) for actor in learner.actors))
    beside = [place <= own for place in theirs]
    if all(beside):
        return DevicePath(learner, IpcSender(workers, dtype, sleep=sleep))
    if any(place & own for place in theirs):
        raise RunError(
            f"some rollout workers share a GPU with the learner, others don't: {sum(beside)} of {len(beside)}",
            where="cluster.rollout",
            fix="give each learner rank and each worker half a GPU, as many of both; or whole GPUs to all",
        )
    return DevicePath(learner, NcclSender(workers, dtype, parallel, learner.local))


def _place(actor: Any) -> set[tuple[str, int]]:
    """The GPUs of an actor: (node, number)."""
    try:
        return ray.get(actor.__ray_call__.remote(_gpus), timeout=PART_TIMEOUT)
    except ray.exceptions.GetTimeoutError:
        raise RunError(f"an actor didn't say in {PART_TIMEOUT:.0f} s where it stands: are there enough GPUs?") from None


def _gpus(_: Any) -> set[tuple[str, int]]:
    node = ray.get_runtime_context().get_node_id()
    return {(node, int(number)) for number in ray.get_gpu_ids()}


# ---------------------------------------------------------------- in the learner's ranks


class Outgoing:
    """The weights on their way: in the receiver's dtype, copied if other streams read them, summed if asked."""

    def __init__(
        self, weights: Iterator[tuple[str, torch.Tensor]], dtype: torch.dtype, *, copied: bool, check: bool
    ) -> None:
        self._weights, self._dtype, self._copied, self._check = weights, dtype, copied, check
        self._sums: list[torch.Tensor] = []

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        import torch

        for name, weight in self._weights:
            sent = weight.to(self._dtype, copy=self._copied)
            if self._copied:  # a gathered weight is gone with its bucket, which another stream may still be reading
                torch.cuda.current_stream().synchronize()
            if self._check:
                self._sums.append(sent.abs().sum(dtype=torch.float64))
            yield name, sent

    @property
    def total(self) -> float | None:
        """The sum of |w| in float64 over all that was sent; None unless asked for."""
        return float(sum(float(s) for s in self._sums)) if self._check else None


class _Sender:
    backend = ""
    makes_room = False
    """Whether vLLM may be about to wake up on this GPU, and needs what the learner has freed."""
    streams = False
    """Whether vLLM packs the weights on streams of its own."""

    def __init__(self, workers: Sequence[Any], dtype: str) -> None:
        self._workers, self._dtype = list(workers), dtype
        self._rank = 0
        self.seconds: dict[str, float] = {}
        """What the last transfer took: pause, transfer, of it read (IPC), and resume with the sums."""

    def open(self, rank: int) -> None:
        """In a rank's process, once the engines are up."""
        self._rank = rank

    def send(self, weights: Iterator[tuple[str, torch.Tensor]], shapes: Shapes, version: int, check: bool) -> None:
        """In all ranks together: hand over every weight, in the order of `shapes`."""
        import torch

        dtype = getattr(torch, self._dtype)
        outgoing = Outgoing(weights, dtype, copied=self.streams, check=check and self._rank == 0)
        torch.cuda.synchronize()  # other streams shall see what the optimizer wrote
        self.seconds = {}
        if self._rank == 0:
            with self._timed("pause"):
                self._tell("begin_update")
        with self._timed("transfer"):
            self._transfer(outgoing, shapes, max(BUCKET, *(dtype.itemsize * _count(shape) for _, shape in shapes)))
            torch.cuda.synchronize()
        if self._rank == 0:
            with self._timed("resume"):
                self._tell("end_update", version, outgoing.total)

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.seconds[what] = self.seconds.get(what, 0.0) + time.monotonic() - began

    def _transfer(self, outgoing: Outgoing, shapes: Shapes, bucket: int) -> None:
        raise NotImplementedError

    def _tell(self, method: str, *arguments: Any) -> None:
        _wait(self._ask(method, *arguments), method)

    def _ask(self, method: str, *arguments: Any) -> list[Any]:
        return [getattr(worker, method).remote(*arguments) for worker in self._workers]


class IpcSender(_Sender):
    """Shares a bucket of this process's GPU memory with vLLM's workers on the same GPU."""

    backend = "ipc"
    makes_room = True
    """At first in any case: between stages vLLM sleeps."""

    def __init__(self, workers: Sequence[Any], dtype: str, *, sleep: bool) -> None:
        super().__init__(workers, dtype)
        self._sleep = sleep

    def _transfer(self, outgoing: Outgoing, shapes: Shapes, bucket: int) -> None:
        from posttrain.stages.rollout.shared_memory import handles_of_all, shared_buffer, wait_for_all

        buffer = shared_buffer(bucket)
        handles = handles_of_all(buffer.handle)
        pickled = base64.b64encode(pickle.dumps(handles)).decode("ascii")
        for part in buffer.fill(iter(outgoing), bucket):
            wait_for_all()
            if self._rank == 0:
                with self._timed("read"):
                    self._tell("receive", {**vars(part), "packed": True, "ipc_handles_pickled": pickled})
            wait_for_all()
        self.makes_room = self._sleep


class NcclSender(_Sender):
    """Broadcasts from the learner's first rank to every worker's ranks."""

    backend = "nccl"
    streams = True

    def __init__(self, workers: Sequence[Any], dtype: str, parallel: int, local: bool) -> None:
        super().__init__(workers, dtype)
        self._parallel, self._local = parallel, local
        self._group: Any = None
        self._stranded = 0

    def open(self, rank: int) -> None:
        """See _Sender: rank 0 meets all of vLLM's workers."""
        super().open(rank)
        if rank:
            return
        from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferEngine

        meeting = {
            "master_address": "127.0.0.1" if self._local else str(ray.util.get_node_ip_address()),
            "master_port": _free_port(),
            "world_size": 1 + self._parallel * len(self._workers),
        }
        joining = [
            worker.connect.remote({**meeting, "rank_offset": 1 + index * self._parallel})
            for index, worker in enumerate(self._workers)
        ]
        self._group = NCCLWeightTransferEngine.trainer_init(meeting)
        _wait(joining, "connect")

    def _transfer(self, outgoing: Outgoing, shapes: Shapes, bucket: int) -> None:
        if self._rank:
            for _ in outgoing:  # gathering is collective
                pass
            return
        import torch
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerSendWeightsArgs, NCCLWeightTransferEngine

        kept = torch.cuda.memory_reserved()
        receiving = self._ask(
            "receive",
            {
                "names": [name for name, _ in shapes], "dtype_names": [self._dtype] * len(shapes),
                "shapes": [list(shape) for _, shape in shapes], "packed": True, "packed_buffer_size_bytes": bucket,
            },
        )  # fmt: skip
        arguments = NCCLTrainerSendWeightsArgs(group=self._group, packed=True, packed_buffer_size_bytes=bucket)
        NCCLWeightTransferEngine.trainer_send_weights(iter(outgoing), arguments)
        _wait(receiving, "receive")
        self._settle(torch.cuda.memory_reserved() - kept)

    def _settle(self, grown: int) -> None:
        """Give back what transfers left behind, `grown` bytes this time, once it is worth the wait for new memory.

        vLLM packs on fresh streams, as it receives (see `drop_cached`): 1.8 GiB a transfer of a 0.6B model.
        """
        import torch

        self._stranded += max(0, grown)
        if self._stranded > STRANDED:
            torch.cuda.empty_cache()
            self._stranded = 0


def _count(shape: Sequence[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _wait(references: list[Any], method: str) -> None:
    answers(references, PART_TIMEOUT, "the rollout workers", f"{method}, for new weights,")
