"""(1) A wrong final answer; and answers that never came to an end."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from posttrain.thinking import split_thinking
from posttrain.types import Completion, Prompt, Score


def correct(
    prompt: Prompt, completion: Completion, score: Score, *, at_least: Annotated[float, Field(gt=0)] = 1.0
) -> str | None:
    """The rewards didn't pay `at_least`; a response that they couldn't judge isn't called wrong."""
    if score.value is None:
        return "no verdict"
    return None if score.value >= at_least else "wrong answer"


def complete(prompt: Prompt, completion: Completion, score: Score) -> str | None:
    """A response that ran into the length limit, left its think block open, or ends with the block."""
    split = split_thinking(completion.last_turn)
    if completion.finish_reason != "stop":
        return "truncated"
    return "think block left open" if split.opened and not split.closed else None
