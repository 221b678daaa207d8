"""Functions over [n, vocabulary] tensors that a GPU runs as a few fused kernels: compiled there, plain on a CPU.

Plainly, each of the dozen operations between logits and loss reads and writes the whole tensor in float32; compiled,
the logits are read in their own precision, two or three times, and nothing else of their size exists.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

VARIANTS = 128
Function = TypeVar("Function", bound=Callable[..., Any])


def fused(function: Function) -> Function:
    """Compile `function` for calls whose first argument, [n, V], lies on a GPU; n may change from call to call."""
    compiled = functools.cache(lambda: compile_variants(function, "inductor"))

    @functools.wraps(function)
    def call(logits: torch.Tensor, *args: Any) -> Any:
        if not logits.is_cuda or len(logits) < 2:  # torch.compile takes sizes 0 and 1 for constants
            return function(logits, *args)
        for tensor in (logits, *args):
            if isinstance(tensor, torch.Tensor):
                torch._dynamo.mark_dynamic(tensor, 0)
        return compiled()(logits, *args)

    return cast(Function, call)


def compile_variants(function: Function, backend: str) -> Function:
    """Compiled for many combinations of vocabulary, precision, gradients and options.

    A learner serves a whole run: PyTorch's limit of eight a function, from which on it runs plainly, is soon met.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, VARIANTS)
    return cast(Function, torch.compile(function, backend=backend))
