"""Rewards on the form of a completion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from posttrain.rewards.contract import BuiltinReward, Case
from posttrain.thinking import split_thinking


def think_format(prompts: Sequence[Any], completions: Sequence[str], **columns: Any) -> list[float]:
    """1.0 for exactly one well-formed think block at the start with an answer behind it, else 0.0."""
    return [float(split_thinking(text).well_formed) for text in completions]


REWARDS: dict[str, BuiltinReward] = {
    "format": BuiltinReward(
        function=think_format,
        sees="completion",
        doc="exactly one well-formed think block at the start",
        gold=Case(completion="<think>\n2 + 2 is 4.\n</think>\n\n4"),
        adversarial=Case(completion="<think>\nA\n</think>\n\n<think>\nB\n</think>\n\n4"),
    )
}
