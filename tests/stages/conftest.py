"""One learner rank in this process for all tests of the stages: a process has one process group."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest

from posttrain.configs.schema import LearnerCluster


@pytest.fixture(scope="session")
def learner_worker() -> Iterator[Any]:
    """A `LearnerWorker` of a single rank; set `settings` before `load`."""
    import torch

    from posttrain.stages.learner.rank.worker import LearnerWorker

    made = LearnerWorker(0, 1, LearnerCluster(zero=0), 2)
    made.join("127.0.0.1", made.host("127.0.0.1"))
    gc.collect()
    gc.freeze()  # all that was imported by now: every load of a model has the collector look around
    yield made
    made.free()
    torch.distributed.destroy_process_group()
