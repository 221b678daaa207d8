"""Scores answers with reasoning_gym's own verifiers (the optional extra `reasoning`), each in a confined room.

Some of those verifiers evaluate the answer as Python (`n_queens`, `binary_matrix`, `spiral_matrix`,
`string_insertion`) or give it to sympy's parser, which does (`countdown`, `puzzle24`, polynomials, integrals). Here
they read it with `safe_expressions` instead, which accepts what an honest answer holds.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

from posttrain.rewards.contract import BuiltinReward, Case, RowError
from posttrain.rewards.libraries import safe_expressions
from posttrain.rewards.libraries.reasoning_gym_strict import paid

_GRIDS = {"arc_agi": ("input", "output"), "rearc": ("input", "output")}
"""Metadata that the verifier compares as tuples of tuples: JSON has made lists of them."""


def reasoning_gym(
    prompts: Sequence[Any],
    completions: Sequence[str],
    entry: Sequence[Any],
    task_name: Sequence[str],
    **columns: Any,
) -> list[float | RowError | None]:
    """The task's own score in [0, 1]. Columns: `entry`, the generated item as JSON; `task_name`, its generator.

    The answer is the text of the last `<answer>` element or \\boxed, else the whole answer.
    """
    scorers = _scorers()
    return [
        None if item is None else _score(scorers, task, _final(text), _item(task, item))
        for text, item, task in zip(completions, entry, task_name, strict=True)
    ]


def _score(scorers: Scorers, task: str, answer: str, item: Any) -> float | RowError:
    if answer and answer == item.get("answer"):  # also where the verifier can't read its own answer
        return 1.0
    try:
        scorer = scorers[task]
    except KeyError:
        return RowError(f"column `task_name`: reasoning_gym has no data set {task!r}")
    score = float(scorer(answer=answer, entry=item))
    return paid(task, answer, item, score) if math.isfinite(score) else RowError(f"{task} scored {score}")


Scorers = dict[str, Callable[..., float]]
_loaded: Scorers = {}


def _scorers() -> Scorers:
    """The verifier of each data set that builds without parameters, by name."""
    if not _loaded:
        load()
    return _loaded


def load() -> None:
    """Loads all verifiers, 0.7 s, and has them read text by `safe_expressions`. For the process of a confined room."""
    from reasoning_gym.factory import DATASETS, get_score_answer_fn

    for name in sorted(DATASETS):
        with contextlib.suppress(AssertionError):  # `composite` is made of others, and has no default
            _loaded[name] = get_score_answer_fn(name)
    safe_expressions.install()
    for name, module in list(sys.modules.items()):
        if name.startswith("reasoning_gym."):
            module.eval = safe_expressions.literal  # type: ignore[attr-defined]  # found before the built-in one
            if getattr(module, "parse_expr", None) is not None and "propositional_logic" not in name:
                module.parse_expr = safe_expressions.parse_expr  # type: ignore[attr-defined]


def _item(task: str, entry: Any) -> Any:
    item = json.loads(entry) if isinstance(entry, str) else entry
    names = _GRIDS.get(task, ())
    if not names or not isinstance(item.get("metadata"), dict):
        return item
    grids = {name: _tuples(item["metadata"][name]) for name in names if name in item["metadata"]}
    return {**item, "metadata": {**item["metadata"], **grids}}


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def _final(text: str) -> str:
    from posttrain.rewards.mathematics.boxed import last_boxed

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
