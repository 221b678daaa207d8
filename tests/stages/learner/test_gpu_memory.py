"""What a step says of its GPU's memory: the largest of all ranks, minibatches and steps, and nothing on a CPU."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from posttrain.configs.schema import Optimizer
from posttrain.stages.learner.losses.losses import CrossEntropy
from posttrain.stages.learner.rank import memory
from posttrain.stages.learner.ranks import Learner
from posttrain.stages.learner.session import TrainingSession
from posttrain.types import Sample

GIB = 1 << 30


def test_the_peak_counts_from_one_asking_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    now = {"peak": 3 * GIB, "held": GIB}

    def reset() -> None:
        now["peak"] = now["held"]

    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: now["peak"])
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: now["held"])
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 4 * GIB)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset)
    assert memory.measure(True) == {"gpu_peak_gib": 3.0, "gpu_gib": 1.0, "gpu_reserved_gib": 4.0}
    assert memory.measure(True)["gpu_peak_gib"] == 1.0
    assert set(memory.measure(False).values()) == {0.0}


def ranks(*results: dict[str, float]) -> Any:
    """A learner whose ranks answer this."""
    learner = Learner.__new__(Learner)
    learner.ranks, learner.optimizer, learner.total_steps = len(results), Optimizer(), 1
    learner._each = lambda *_, **__: list(results)  # type: ignore[method-assign]
    return learner


def step(learner: Any) -> dict[str, float]:
    ids = np.arange(6)
    samples = [Sample(ids=ids, loss_mask=(ids > 0).astype(np.float32)) for _ in range(2)]
    found: dict[str, float] = learner.step(samples, CrossEntropy(), step=0, micro_tokens=64)
    return found


def test_a_step_has_the_memory_of_the_rank_that_has_the_most_and_the_mean_of_the_rest() -> None:
    own = {"loss": 1.0, "targets": 4.0, "grad_norm": 1.0, "entropy": 8.0}
    found = step(ranks(own | {"gpu_peak_gib": 2.0, "gpu_gib": 3.0}, own | {"gpu_peak_gib": 5.0, "gpu_gib": 1.0}))
    assert (found["gpu_peak_gib"], found["gpu_gib"], found["entropy"]) == (5.0, 3.0, 2.0)
    assert not set(memory.MEMORY) & set(step(ranks(own)))


def test_a_stage_has_its_steps_highest_peak() -> None:
    context: Any = SimpleNamespace(
        spec=SimpleNamespace(steps=9, checkpoint_every=0, max_skipped=3), progress=SimpleNamespace(advance=print),
        metrics=SimpleNamespace(write=print), stop_requested=lambda: False,
    )  # fmt: skip
    session = TrainingSession(context=context, learner=None, chat=None, path="", source=None, total=100)  # type: ignore[arg-type]
    for number, peak in enumerate((2.0, 7.0, 3.0)):
        session.end_step(number, {"tokens": 5.0, "gpu_peak_gib": peak})
    session.end_step(3, {"tokens": 5.0})
    assert session.totals == {"tokens": 20.0, "generated_tokens": 0.0, "gpu_peak_gib": 7.0}
