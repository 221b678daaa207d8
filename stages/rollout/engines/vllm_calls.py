"""What is used of vLLM, and what its answers mean: its interface, requests, seeds, log-probabilities, errors."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from posttrain.errors import PosttrainError, RunError
from posttrain.stages.rollout.engines.error_log import last_error
from posttrain.types import SamplingParams


class AsyncEngine(Protocol):
    """What is used of vLLM's AsyncLLM (vllm/v1/engine/async_llm.py, 0.26)."""

    def generate(self, prompt: Any, sampling_params: Any, request_id: str) -> Any: ...
    async def pause_generation(self, *, mode: Any, clear_cache: bool) -> None: ...
    async def resume_generation(self) -> None: ...
    async def collective_rpc(
        self, method: str, timeout: float | None = None, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any: ...
    async def sleep(self, level: int, mode: Any) -> None: ...
    async def wake_up(self, tags: list[str] | None) -> None: ...
    def shutdown(self) -> None: ...


Request = Callable[[SamplingParams, int, int, Sequence[int]], Any]
"""(how to sample, tokens at most, seed, stop ids) -> vLLM's SamplingParams, streaming deltas with log-probabilities."""


def derived_seed(seed: int, prompt_id: str, index: int, at: int) -> int:
    """A seed of 63 bits for sample `index` of a prompt, from its token `at` on."""
    digest = hashlib.blake2b(f"{seed}/{prompt_id}/{index}/{at}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def sampled_logprobs(found: Any, count: int) -> list[float]:
    """The sampled tokens' values out of vLLM's FlatLogprobs; the last part of a request may repeat earlier ones."""
    return [] if not count else np.asarray(found.logprobs, np.float64)[found.start_indices[:count]].tolist()


def plain_error(error: BaseException) -> BaseException:
    """The first error of a group of tasks; what isn't ours, with what it means."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, PosttrainError):
        return error
    before = last_error()
    why = f"; before that: {before}" if before and before not in str(error) else ""
    told = RunError(f"vLLM failed while generating: {type(error).__name__}: {error}{why}")
    told.__cause__ = error
    return told
