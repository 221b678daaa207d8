"""Whether a completion thinks as it was told to (the report's ThinkFollow; Qwen3, 4.7)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from posttrain.flags import flag_in_force
from posttrain.rewards.contract import BuiltinReward, Case
from posttrain.thinking import CLOSE, OPEN, split_thinking


def wanted_mode(prompt: Sequence[Any], mode: str | None = None) -> str:
    """What a prompt asks for: "think", "no_think" or "closed".

    `mode` decides if it names one of these; else the last flag in the user and system turns; else "think".
    """
    if mode in ("think", "no_think", "closed"):
        return mode
    return flag_in_force(prompt) or "think"


def follows(text: str, wanted: str) -> bool:
    """Whether a completion has the form of its mode.

    think: one well-formed block with something in it. no_think: one well-formed empty block. closed: an answer
    and no think marks, since the empty block stands in the prompt (a second empty block is let pass).
    """
    split = split_thinking(text)
    if wanted == "closed" and OPEN not in text and CLOSE not in text:
        return bool(split.answer)
    return split.well_formed and split.empty == (wanted != "think")


def mode_following(
    prompts: Sequence[Sequence[Any]],
    completions: Sequence[str],
    mode: Sequence[str | None] | None = None,
    **columns: Any,
) -> list[float]:
    """1.0 where the completion thinks, or doesn't, as the prompt's last flag or the column `mode` says."""
    modes = mode or [None] * len(completions)
    return [
        float(follows(text, wanted_mode(prompt, wanted)))
        for prompt, text, wanted in zip(prompts, completions, modes, strict=True)
    ]


REWARDS: dict[str, BuiltinReward] = {
    "mode_following": BuiltinReward(
        function=mode_following,
        optional=("mode",),
        sees="completion",
        doc="thinks, or doesn't, as the last flag or the prompt's mode says",
        gold=Case(completion="<think>\n\n</think>\n\n4", prompt="What is 2 + 2? /no_think"),
        adversarial=Case(completion="<think>\nEasy.\n</think>\n\n4", prompt="What is 2 + 2? /no_think"),
    )
}
