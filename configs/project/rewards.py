"""Rewards of this project. The recipe names them `rewards.py:FUNCTION`.

A reward has TRL's signature: lists in, one number a completion out; `None` means that it doesn't apply to this row.
Columns of the data arrive as keywords, a list each: name those you need, like `answer`; `**columns` takes the rest.
It sees the whole completion, think block included. Before it trains anything, ask what a model would write to be paid
without being right, and put that into test_rewards.py.
"""

from __future__ import annotations

import re
from typing import Any


def shown_work(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float | None]:
    """How much of the sum's work the think block shows: the share of its lines that are the next right step.

    `What is 20+7-12?` takes the steps 20+7=27 and 27-12=15. Lines beyond those count against it, so padding doesn't
    pay. Whether the final answer is right is another reward's business. Prompts without a sum: not applicable.
    """
    return [_share(text_of(p), text_of(c)) for p, c in zip(prompts, completions, strict=True)]


def text_of(turn: Any) -> str:
    """The text of a prompt or completion: a string, or a list of messages, the last of which counts."""
    return turn if isinstance(turn, str) else str(turn[-1]["content"])


def _share(prompt: str, completion: str) -> float | None:
    question = re.search(r"\d+(?:[+-]\d+)+", prompt)
    if question is None:
        return None
    thinking, closed, _ = completion.partition("</think>")
    if not closed:
        return 0.0
    written = [line.replace(" ", "") for line in thinking.removeprefix("<think>").splitlines() if line.strip()]
    needed = steps_of(question[0])
    right = sum(line == step for line, step in zip(written, needed, strict=False))
    return right / max(len(written), len(needed))


def steps_of(expression: str) -> list[str]:
    """The steps of a sum, left to right: `20+7-12` gives `20+7=27` and `27-12=15`."""
    first, *operands = re.findall(r"[+-]?\d+", expression)
    total, steps = int(first), []
    for operand in operands:
        steps.append(f"{total}{operand}={total + int(operand)}")
        total += int(operand)
    return steps
