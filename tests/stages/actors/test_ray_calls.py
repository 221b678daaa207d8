"""What an actor's failure says: whose it was, what it should have done, and what helps."""

from __future__ import annotations

import pytest
import ray
import torch

from posttrain.errors import InputError, RunError
from posttrain.stages.actors.ray_calls import answers

FULL = (
    "CUDA out of memory. Tried to allocate 226.00 MiB. GPU 0 has 168.56 MiB free. If reserved but unallocated memory "
    "is large try setting PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True"
)


@ray.remote(num_cpus=0)
def failing(error: Exception) -> None:
    raise error


pytestmark = pytest.mark.usefixtures("ray_session")


def test_no_gpu_memory_says_what_gives_room() -> None:
    with pytest.raises(RunError) as raised:
        answers([failing.remote(torch.OutOfMemoryError(FULL))], 60, "the learner's ranks", "finish `step`")
    said = str(raised.value)
    assert "the learner's ranks should finish `step`" in said
    assert "Tried to allocate 226.00 MiB" in said
    assert "expandable_segments" not in said  # a setting that shared memory doesn't go with
    assert "micro_tokens" in raised.value.fix


def test_an_error_of_ours_comes_as_it_is_and_another_with_its_traceback() -> None:
    with pytest.raises(InputError, match="no such column"):
        answers(failing.remote(InputError("no such column")), 60, "the workers", "load")
    with pytest.raises(ValueError, match="failing"):
        answers(failing.remote(ValueError("odd")), 60, "the workers", "load")
