"""(6) Suspected too similar to validation items."""

from __future__ import annotations

from posttrain.stages.curation.decontamination import HeldOut
from posttrain.types import Completion, Prompt, Score


def similar(prompt: Prompt, completion: Completion, score: Score, *, held_out: HeldOut) -> str | None:
    """The question, or what is said to it, is too near to an item of the stage's `held_out` sets."""
    return "similar to a held-out item" if held_out.find(prompt, completion.said) else None
