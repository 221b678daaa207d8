"""Waiting for actors: no wait without a bound, errors of ours as they are, and what became of an actor that died."""

from __future__ import annotations

from typing import Any

import ray

from posttrain.errors import PosttrainError, RunError

LOAD_TIMEOUT = 1800.0
"""Seconds for a model of any size: each of a learner's ranks reads 131 GB of a 32B model in float32, at worst over a
network that all share; vLLM compiles when it is started first on a machine."""
MORE_ROOM = (
    "lower micro_tokens, or say cluster.learner: {gradient_checkpointing: true}, or zero: 3 over more ranks; where an "
    "engine shares the GPU, lower cluster.rollout.memory or say sleep: true. The same command goes on from the last "
    "checkpoint; gpu_peak_gib and gpu_gib in metrics.jsonl say whether it grew"
)
"""For who ran out of GPU memory."""


def answers(references: Any, timeout: float, who: str, verb: str) -> Any:
    """What the calls behind `references` (one, or a list) return.

    Raises:
        PosttrainError: an actor raised it. (What else it raises comes as Ray has it, with its traceback.)
        RunError: they weren't done in `timeout` seconds, one of them died, or its GPU had no memory left: `who` should
            `verb`.
    """
    try:
        return ray.get(references, timeout=timeout)
    except ray.exceptions.GetTimeoutError:
        raise RunError(f"{who} didn't {verb} in {timeout:.0f} s") from None
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, PosttrainError):
            raise error.cause from None
        if type(error.cause).__name__ == "OutOfMemoryError":  # torch's, which isn't imported for its name
            raise RunError(f"{who} should {verb}, and {_what(error.cause)}", fix=MORE_ROOM) from error
        raise
    except ray.exceptions.RayError as error:  # died, killed for memory, or never started
        raise RunError(f"{who} should {verb}, and one died: {str(error).splitlines()[0]}") from None


def _what(cause: BaseException | None) -> str:
    """PyTorch's words about memory, without those about its allocator's settings."""
    return f"there was no GPU memory left: {str(cause).split(' If reserved but unallocated')[0]}"
