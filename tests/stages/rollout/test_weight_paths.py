"""The way of the weights: chosen by placement, begun before the first bucket, ended with the sum of what was sent."""

from __future__ import annotations

import base64
import itertools
import multiprocessing
import pickle
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from posttrain.configs.schema import LearnerCluster, Lora, Optimizer, RolloutCluster
from posttrain.errors import RunError
from posttrain.stages.learner.rank.worker import LearnerWorker
from posttrain.stages.models.model_files import ModelSpec
from posttrain.stages.rollout import shared_memory, weights
from posttrain.stages.rollout.pool import RolloutPool
from posttrain.stages.rollout.weights import DevicePath, IpcSender, NcclSender, ObjectStore, path_between


def learner(*gpus: int) -> Any:
    actors = [SimpleNamespace(stands={("node", g)}) for g in gpus]
    return SimpleNamespace(settings=SimpleNamespace(gpus=float(bool(gpus))), actors=actors, local=True)


def workers(*gpus: set[int]) -> list[Any]:
    return [SimpleNamespace(stands={("node", g) for g in own}) for own in gpus]


@pytest.fixture(autouse=True)
def _placed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_place", lambda actor: actor.stands)


@pytest.mark.parametrize(
    ("ranks", "theirs", "backend"),
    [
        ((0,), [{0}], "ipc"),
        ((0, 1), [{0}, {1}], "ipc"),
        ((0, 1), [{0, 1}], "ipc"),
        ((0,), [{1}], "nccl"),
        ((0, 1), [{2, 3}, {4, 5}], "nccl"),
    ],
)
def test_the_way_is_chosen_by_placement(ranks: tuple[int, ...], theirs: list[set[int]], backend: str) -> None:
    path = path_between(learner(*ranks), workers(*theirs), "vllm", len(theirs[0]), "bfloat16")
    assert isinstance(path, DevicePath)
    assert path.backend == backend


def test_the_transformers_engine_reads_shared_memory_wherever_it_stands() -> None:
    assert isinstance(path_between(learner(0), workers({0}), "transformers", 1, "float32"), ObjectStore)


@pytest.mark.parametrize(("ranks", "theirs"), [((0,), [{0}, {1}]), ((0,), [{0, 1}]), ((), [{0}])])
def test_a_placement_without_a_way_is_refused(ranks: tuple[int, ...], theirs: list[set[int]]) -> None:
    with pytest.raises(RunError, match=r"GPU"):
        path_between(learner(*ranks), workers(*theirs), "vllm", 1, "bfloat16")


class Worker:
    """A rollout worker's handle: what it is told, in order."""

    def __init__(self, told: list[Any]) -> None:
        self.told = told

    def __getattr__(self, method: str) -> Any:
        return SimpleNamespace(remote=lambda *arguments: self.told.append((method, *arguments)))


@pytest.fixture
def _cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(synchronize=lambda: None))
    monkeypatch.setattr(weights, "_wait", lambda references, method: None)


NAMED = [("a", torch.full((2, 3), -1.5)), ("b", torch.arange(4.0)), ("c", torch.ones(5))]
SHAPES = [(name, tuple(weight.shape)) for name, weight in NAMED]


def vllms(monkeypatch: pytest.MonkeyPatch, name: str, **members: Any) -> None:
    """Stands where vLLM's transfer engine does, on the sender's side."""
    for parent in ("vllm", "vllm.distributed", "vllm.distributed.weight_transfer"):
        monkeypatch.setitem(sys.modules, parent, ModuleType(parent))
    module = ModuleType(f"vllm.distributed.weight_transfer.{name}")
    vars(module).update(members)
    monkeypatch.setitem(sys.modules, module.__name__, module)


class Reader:
    """A rollout worker on the same GPU: reads each bucket when told of it, as vLLM's packed_ipc_consumer does."""

    def __init__(self, buffers: dict[str, torch.Tensor]) -> None:
        self.buffers, self.told, self.read = buffers, list[str](), dict[str, torch.Tensor]()
        self.largest, self.versions = 0, list[Any]()

    def __getattr__(self, method: str) -> Any:
        return SimpleNamespace(remote=lambda *arguments: self._called(method, *arguments))

    def _called(self, method: str, *arguments: Any) -> None:
        self.told.append(method)
        if method == "end_update":
            self.versions.append(arguments)
        if method != "receive":
            return
        (info,) = arguments
        memory = self.buffers[pickle.loads(base64.b64decode(info["ipc_handles_pickled"]))["gpu 0"]]
        self.largest = max(self.largest, sum(info["tensor_sizes"]))
        parts = memory[: sum(info["tensor_sizes"])].split(info["tensor_sizes"])
        told = zip(info["names"], info["dtype_names"], info["shapes"], parts, strict=True)
        for name, dtype, shape, part in told:
            self.read[name] = part.view(getattr(torch, dtype)).view(*shape).clone()


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """Buffers that were shared with other processes, by handle; no CUDA."""
    buffers: dict[str, torch.Tensor] = {}

    def export(size: int) -> tuple[torch.Tensor, dict[str, Any]]:
        buffers[f"handle {len(buffers)}"] = memory = torch.full((size,), 255, dtype=torch.uint8)
        return memory, {"gpu 0": f"handle {len(buffers) - 1}"}

    monkeypatch.setattr(shared_memory, "export", export)
    monkeypatch.setattr(shared_memory, "_kept", [])
    return buffers


@pytest.mark.usefixtures("_cpu")
@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("bucket", [12, 20, 1000])
def test_shared_buckets_arrive_whole_between_begin_and_end(
    monkeypatch: pytest.MonkeyPatch, exported: dict[str, torch.Tensor], check: bool, bucket: int
) -> None:
    monkeypatch.setattr(weights, "BUCKET", bucket)
    reader = Reader(exported)
    sender = IpcSender([reader], "bfloat16", sleep=False)
    sender.open(0)
    sender.send(iter(NAMED), SHAPES, 7, check)
    receives = {12: 3, 20: 2, 1000: 1}[bucket]  # 12, 8 and 10 bytes: cast to two each
    assert reader.told == ["begin_update", *["receive"] * receives, "end_update"]
    assert reader.largest <= bucket
    assert list(reader.read) == ["a", "b", "c"]
    for name, weight in NAMED:
        assert torch.equal(reader.read[name], weight.bfloat16())
    assert reader.versions == [(7, pytest.approx(9 + 6 + 5) if check else None)]


@pytest.mark.usefixtures("_cpu")
def test_every_transfer_takes_the_memory_that_was_shared_first(exported: dict[str, torch.Tensor]) -> None:
    """What vLLM has opened several times PyTorch never frees: new memory for each transfer would pile up."""
    for number in range(3):  # a sender a stage
        reader = Reader(exported)
        sender = IpcSender([reader], "float32", sleep=False)
        sender.open(0)
        for version in range(2):
            items = [(name, weight + number + version) for name, weight in NAMED]
            sender.send(iter(items), SHAPES, version, False)
            assert all(torch.equal(reader.read[name], weight) for name, weight in items)
    assert len(exported) == 1


@pytest.mark.usefixtures("_cpu")
def test_a_larger_weight_gets_a_larger_buffer_and_smaller_ones_stay_in_it(
    monkeypatch: pytest.MonkeyPatch, exported: dict[str, torch.Tensor]
) -> None:
    monkeypatch.setattr(weights, "BUCKET", 16)
    for size in (4, 40, 4):
        reader = Reader(exported)
        sender = IpcSender([reader], "float32", sleep=False)
        sender.open(0)
        sender.send(iter([("w", torch.arange(float(size)))]), [("w", (size,))], 0, False)
        assert torch.equal(reader.read["w"], torch.arange(float(size)))
    assert [len(memory) for memory in exported.values()] == [16, 160]


def _rank(rank: int, meeting: str, memories: list[torch.Tensor], found: Any) -> None:
    """One of two ranks with a buffer each: the first alone tells, the second is late with its first weight."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    shared_memory.export = lambda size: (memories[rank], {f"gpu {rank}": rank})
    torch.cuda.synchronize = lambda *_: None
    weights._wait = lambda references, method: None
    weights.BUCKET = 16
    told: list[Any] = []

    def read(info: Any) -> None:
        time.sleep(0.3)
        handles = pickle.loads(base64.b64decode(info["ipc_handles_pickled"]))
        size = sum(info["tensor_sizes"])
        told.append((handles, [memory[:size].view(torch.float32).tolist() for memory in memories]))

    def late() -> Any:
        time.sleep(rank)
        yield from NAMED[1:]

    worker = SimpleNamespace(
        begin_update=SimpleNamespace(remote=lambda: None), receive=SimpleNamespace(remote=read),
        end_update=SimpleNamespace(remote=lambda *_: None),
    )  # fmt: skip
    sender = IpcSender([worker], "float32", sleep=False)
    sender.open(rank)
    sender.send(late(), SHAPES[1:], 0, False)
    found.put((rank, told))
    torch.distributed.destroy_process_group()


def test_the_first_of_two_ranks_tells_when_both_have_written_and_both_wait_until_all_was_read(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    found, memories = spawn.Queue(), [torch.zeros(20, dtype=torch.uint8).share_memory_() for _ in range(2)]
    arguments = (str(tmp_path / "meeting"), memories, found)
    ranks = [spawn.Process(target=_rank, args=(rank, *arguments), daemon=True) for rank in range(2)]
    for process in ranks:
        process.start()
    by_rank = dict(found.get(timeout=60) for _ in ranks)
    for process in ranks:
        process.join(timeout=60)
    handles = {"gpu 0": 0, "gpu 1": 1}
    assert by_rank[0] == [(handles, [[0.0, 1.0, 2.0, 3.0]] * 2), (handles, [[1.0] * 5] * 2)]
    assert by_rank[1] == []


@pytest.mark.usefixtures("_cpu")
def test_a_broadcast_is_received_while_it_is_sent_and_other_ranks_only_gather(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []

    def send(items: Any, arguments: Any) -> None:
        assert told[-1][0] == "receive"
        assert arguments.group == "group"
        told.append(("sent", [name for name, _ in items]))

    engine = SimpleNamespace(trainer_send_weights=send, trainer_init=lambda meeting: "group")
    vllms(monkeypatch, "nccl_engine", NCCLTrainerSendWeightsArgs=SimpleNamespace, NCCLWeightTransferEngine=engine)
    sender = NcclSender([Worker(told), Worker(told)], "bfloat16", parallel=2, local=True)
    sender.open(0)
    assert [(t[1]["rank_offset"], t[1]["world_size"]) for t in told] == [(1, 5), (3, 5)]
    told.clear()
    sender.send(iter(NAMED), SHAPES, 7, True)
    assert [t[0] for t in told] == [*["begin_update"] * 2, *["receive"] * 2, "sent", *["end_update"] * 2]
    assert told[2][1]["names"] == told[4][1] == ["a", "b", "c"]
    told.clear()
    other, gathered = NcclSender([Worker(told)], "bfloat16", parallel=1, local=True), iter(NAMED)
    other.open(1)
    other.send(gathered, SHAPES, 7, True)
    assert (told, list(gathered)) == ([], [])


@pytest.mark.parametrize("lora", [None, Lora(rank=2)])
def test_shapes_are_told_in_the_order_in_which_weights_come(learner_worker: Any, random_model: Path, lora: Any) -> None:
    learner_worker.settings = LearnerCluster(zero=0)
    learner_worker.load(ModelSpec(path=str(random_model), lora=lora), Optimizer(), 0)
    found = [(name, tuple(weight.shape)) for name, weight in learner_worker.named_weights()]
    assert learner_worker.weight_shapes() == found
    assert len(found) > 20
    learner_worker.free()


@pytest.mark.usefixtures("_cpu")
@pytest.mark.parametrize("copied", [True, False])
def test_what_another_stream_reads_is_a_copy(copied: bool) -> None:
    """Of equal dtype, where a cast would be none: a gathered weight is gone with its bucket."""
    outgoing = weights.Outgoing(iter(NAMED), torch.float32, copied=copied, check=False)
    for (_, own), (_, sent) in zip(NAMED, outgoing, strict=True):
        assert torch.equal(own, sent)
        assert (own.data_ptr() != sent.data_ptr()) == copied


@pytest.mark.usefixtures("ray_session")
def test_the_sums_are_compared_at_every_so_many_transfers() -> None:
    checked: list[tuple[int, bool]] = []
    path = SimpleNamespace(backend="ipc", send=lambda version, check: checked.append((version, check)) or [])
    pool = RolloutPool.__new__(RolloutPool)
    pool.settings = RolloutCluster(engine="vllm", gpus=1, check_weights=3)
    pool.actors, pool._pushed, pool._path, pool._sent = [], [], path, 0
    for version in range(7):
        pool.push_weights(version)
    assert [version for version, check in checked if check] == [0, 3, 6]
    assert len(checked) == 7


@pytest.mark.usefixtures("_cpu")
@pytest.mark.parametrize(
    ("sleep", "free", "later"),
    [
        (True, 40, ["emptied", "sent", "emptied"]),
        (False, 40, ["sent"]),
        (False, 3, ["emptied", "sent", "emptied"]),  # an engine that is awake copies a bucket, too
    ],
)
def test_a_learner_gives_freed_memory_back_where_an_engine_on_its_gpu_may_need_it(
    monkeypatch: pytest.MonkeyPatch, exported: dict[str, torch.Tensor], sleep: bool, free: int, later: list[str]
) -> None:
    """Without it an engine that slept while the learner grew runs out of memory some steps later (seen); one that
    stayed awake has its own, and the learner would ask for all of its again at every step."""
    found: list[str] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: found.append("emptied"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free << 30, 80 << 30))
    sender = IpcSender([Reader(exported)], "float32", sleep=sleep)
    sender.open(0)
    worker: Any = SimpleNamespace(
        cuda=True, settings=LearnerCluster(gpus=0.5, workers=1), named_weights=lambda: iter(NAMED),
        weight_shapes=lambda: SHAPES, sender=sender,
    )  # fmt: skip
    worker._give_back = lambda: LearnerWorker._give_back(worker)
    worker._crowded = lambda: LearnerWorker._crowded(worker)
    sending = sender.send
    monkeypatch.setattr(sender, "send", lambda *arguments: (sending(*arguments), found.append("sent")))
    for version, said in ((1, ["emptied", "sent", "emptied"]), (2, later)):  # between stages every engine sleeps
        LearnerWorker.send_weights(worker, version, check=False)
        assert found == said
        found.clear()


def test_a_learner_on_a_gpu_of_its_own_keeps_what_it_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    """However little of it is free."""
    found: list[str] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: found.append("emptied"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (1 << 30, 80 << 30))
    sender: Any = NcclSender([], "bfloat16", parallel=1, local=True)
    monkeypatch.setattr(sender, "send", lambda *_: found.append("sent"))
    worker: Any = SimpleNamespace(
        cuda=True, settings=LearnerCluster(gpus=1, workers=1), named_weights=dict, weight_shapes=list, sender=sender
    )
    worker._give_back = lambda: LearnerWorker._give_back(worker)
    worker._crowded = lambda: LearnerWorker._crowded(worker)
    LearnerWorker.send_weights(worker, 1, check=False)
    assert found == ["sent"]


@pytest.mark.usefixtures("_cpu")
def test_what_a_transfer_took_is_told_by_part(
    monkeypatch: pytest.MonkeyPatch, exported: dict[str, torch.Tensor]
) -> None:
    """By a clock that goes on by a second whenever it is read; of the last transfer alone."""
    monkeypatch.setattr(weights, "BUCKET", 16)
    monkeypatch.setattr(weights, "time", SimpleNamespace(monotonic=map(float, itertools.count()).__next__))
    sender = IpcSender([Reader(exported)], "float32", sleep=False)
    sender.open(0)
    for _ in range(2):
        sender.send(iter(NAMED), SHAPES, 0, False)
        assert sender.seconds == {"pause": 1.0, "read": 3.0, "transfer": 7.0, "resume": 1.0}


def test_what_nccl_leaves_behind_is_given_back_once_it_is_much(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    grown: list[int] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: given.append(len(grown)))
    sender = NcclSender([], "bfloat16", 1, True)
    for gib in (3, 3, -1, 3, 3, 3, 3):  # a transfer that found more than it left owes nothing, and is owed nothing
        grown.append(gib)
        sender._settle(gib << 30)
    assert given == [4, 7]
