"""The plan's memory a rank against what a learner really holds."""

from __future__ import annotations

import gc
import itertools
import subprocess
import sys
from typing import Literal, get_args

import pytest

from posttrain.configs.schema import LearnerCluster
from posttrain.pipelines.planning.estimate import _ZERO3_BUFFER, _bytes_a_rank

Dtype = Literal["float32", "bfloat16"]
Zero = Literal[0, 1, 2, 3]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)
TINY = 368_928
"""Parameters of builtin:tiny."""


def measure(dtypes: list[str]) -> None:
    """Prints, by dtype and ZeRO stage, the bytes of all tensors of a rank: after a step, when gradients are gone, and
    behind the first pass of another one, when they are added up.
    """
    import numpy as np
    import torch

    from posttrain.configs.schema import Optimizer
    from posttrain.stages.learner.losses.losses import CrossEntropy
    from posttrain.stages.learner.rank.packing import pack, token_weights
    from posttrain.stages.learner.rank.worker import LearnerWorker
    from posttrain.stages.models.locations import builtin_path
    from posttrain.stages.models.model_files import ModelSpec
    from posttrain.types import Sample

    def held() -> int:
        gc.collect()
        tensors = [o for o in gc.get_objects() if isinstance(o, torch.Tensor) and o.numel()]
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
        return sum(storages.values())

    worker = LearnerWorker(0, 1, LearnerCluster(threads=1), 1)
    worker.join("127.0.0.1", worker.host("127.0.0.1"))
    mask = np.ones(40, np.float32)
    mask[0] = 0
    samples = [Sample(ids=np.arange(40) + 10, loss_mask=mask)]
    batch = pack(samples, token_weights(samples, "token"), [0])
    for dtype, zero in itertools.product(dtypes, (0, 1, 2, 3)):
        worker.settings = LearnerCluster(dtype=dtype, threads=1)  # type: ignore[arg-type]
        before = held()
        worker.load(ModelSpec(path=str(builtin_path("builtin:tiny"))), Optimizer(lr=1e-4), 0, zero)
        worker.step([batch], CrossEntropy(), 1e-4)
        print(f"held {dtype} {held() - before}", flush=True)
        worker.engine.set_gradient_accumulation_boundary(False)
        worker.engine.backward(worker._loss(batch, CrossEntropy())[0])
        print(f"summed {dtype} {held() - before}", flush=True)
        worker.free()


@pytest.fixture(scope="module")
def held() -> dict[str, list[int]]:
    """What `measure` finds, by dtype: in a process of its own, since what DeepSpeed keeps for good isn't this one's."""
    done = subprocess.run([sys.executable, __file__, *DTYPES], capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, list[int]] = {f"{when} {dtype}": [] for when in ("held", "summed") for dtype in DTYPES}
    for line in done.stdout.splitlines():
        name, _, size = line.rpartition(" ")
        if name in found:
            found[name].append(int(size))
    return found


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_rank_holds_what_the_plan_says(held: dict[str, list[int]], dtype: Dtype) -> None:
    """To a twentieth."""
    got = held[f"held {dtype}"]
    width = 2 if dtype == "bfloat16" else 4
    zeros: tuple[Zero, ...] = (0, 1, 2, 3)
    gone = [6 if dtype == "bfloat16" and zero < 3 else 4 for zero in zeros]  # sums in float32, and the pass's own
    held_by_plan = [_bytes_a_rank(TINY, LearnerCluster(dtype=dtype, zero=zero)) for zero in zeros]
    expected = [found - TINY * width for found, width in zip(held_by_plan, gone, strict=True)]
    assert got[:3] == pytest.approx(expected[:3], rel=0.05)
    assert got[3] == pytest.approx(expected[3], rel=0.05)
    assert got[3] > width * _ZERO3_BUFFER


def test_gradients_in_bfloat16_add_up_in_float32(held: dict[str, list[int]]) -> None:
    """ZeRO-3's buffer for them stays, below the sums come with a pass."""
    sums = [a - b for a, b in zip(held["summed bfloat16"], held["held bfloat16"], strict=True)]
    assert sums[:3] == pytest.approx([4 * TINY] * 3, rel=0.05)


def test_ranks_split_each_part_from_its_level_on() -> None:
    def gib(zero: Zero, dtype: Dtype = "bfloat16", *, offload_optimizer: bool = False) -> float:
        cluster = LearnerCluster(workers=4, zero=zero, dtype=dtype, offload_optimizer=offload_optimizer)
        return _bytes_a_rank(10**9, cluster) / 1e9

    assert [gib(zero, "float32") for zero in (0, 1, 2, 3)] == [16.0, 8 + 3.0, 4 + 1 + 3.0, 1 + 1 + 3 + 2.0]
    assert [gib(zero) for zero in (0, 1, 2)] == [2 + 1.5 + 3.0] * 3
    assert gib(3) == pytest.approx(0.5 + 1.0 + 3.0 + 1.0)
    assert gib(2, offload_optimizer=True) == 2 + 1.5
    assert gib(3, offload_optimizer=True) == 0.5 + 1.0


if __name__ == "__main__":
    measure(sys.argv[1:])
