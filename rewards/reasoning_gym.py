"""Scores answers with reasoning_gym's own verifiers (the optional extra `reasoning`)."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from typing import Any

from posttrain.rewards.contract import BuiltinReward, Case


@functools.lru_cache(maxsize=256)
def _scorer(task: str) -> Any:
    from reasoning_gym.factory import get_score_answer_fn

    return get_score_answer_fn(task)


def reasoning_gym(
    prompts: Sequence[Any],
    completions: Sequence[str],
    entry: Sequence[Any],
    task_name: Sequence[str],
    **columns: Any,
) -> list[float | None]:
    """The task's own score in [0, 1]. Columns: `entry`, the generated item as JSON; `task_name`, its generator.

    The answer is what stands in the last `<answer>` element or \\boxed, else the whole answer.
    """
    return [
        None if item is None else float(_scorer(task)(answer=_final(text), entry=_item(item)))
        for text, item, task in zip(completions, entry, task_name, strict=True)
    ]


def _item(entry: Any) -> Any:
    return json.loads(entry) if isinstance(entry, str) else entry


def _final(text: str) -> str:
    from posttrain.rewards.boxed import last_boxed

    _, mark, tail = text.rpartition("<answer>")
    if mark and "</answer>" in tail:
        return tail.partition("</answer>")[0].strip()
    return last_boxed(text) or text.strip()


_ENTRY = {
    "question": "State the final answer to the following arithmetic problem: 4 + 3 =",
    "answer": "7",
    "metadata": {"source_dataset": "chain_sum", "expression": "4 + 3"},
}

REWARDS: dict[str, BuiltinReward] = {
    "reasoning_gym": BuiltinReward(
        function=reasoning_gym,
        columns=("entry", "task_name"),
        needs="worker",
        doc="reasoning_gym's own verifier of the task",
        gold=Case(completion="It is \\boxed{7}.", columns={"entry": _ENTRY, "task_name": "chain_sum"}),
        adversarial=Case(completion="5 6 7 8 9", columns={"entry": _ENTRY, "task_name": "chain_sum"}),
    )
}
