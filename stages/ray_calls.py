"""Waiting for actors: no wait without a bound, errors of ours as they are, and what became of an actor that died."""

from __future__ import annotations

from typing import Any

import ray

from posttrain.errors import PosttrainError, RunError


def answers(references: Any, timeout: float, who: str, verb: str) -> Any:
    """What the calls behind `references` (one, or a list) return.

    Raises:
        PosttrainError: an actor raised it. (What else it raises comes as Ray has it, with its traceback.)
        RunError: they weren't done in `timeout` seconds, or one of them died: `who` should `verb`.
    """
    try:
        return ray.get(references, timeout=timeout)
    except ray.exceptions.GetTimeoutError:
        raise RunError(f"{who} didn't {verb} in {timeout:.0f} s") from None
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, PosttrainError):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:  # died, killed for memory, or never started
        raise RunError(f"{who} should {verb}, and one died: {str(error).splitlines()[0]}") from None
