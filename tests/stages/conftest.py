"""One learner rank in this process for all tests of the stages: a process has one process group."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from posttrain.configs.schema import LearnerCluster


@pytest.fixture(scope="session")
def learner_worker() -> Iterator[Any]:
    """A `LearnerWorker` of a single rank; set `settings` before `load`."""
    import torch

    from posttrain.stages.learner.worker import LearnerWorker

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    made = LearnerWorker(0, 1, "127.0.0.1", port, LearnerCluster(zero=0), 2)
    yield made
    made.free()
    torch.distributed.destroy_process_group()
