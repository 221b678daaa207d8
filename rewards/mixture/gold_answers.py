"""The known right answer of a row: its column `gold`, or what a built-in's columns make of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from posttrain.configs.schema import RewardUse
from posttrain.rewards.builtins import BUILTINS


def _boxed(columns: Mapping[str, Any]) -> str:
    return f"\\boxed{{{columns['answer']}}}"


def _stated(columns: Mapping[str, Any]) -> str:
    return str(columns["answer"])


def _every_keyword(columns: Mapping[str, Any]) -> str:
    words = columns["keywords"]
    return words if isinstance(words, str) else "\n".join(map(str, words or ()))


def _reference(columns: Mapping[str, Any]) -> str:
    found = columns["reference"]
    return found if isinstance(found, str) else str(next(iter(found or ()), ""))


def _of_entry(columns: Mapping[str, Any]) -> str | None:
    entry = columns["entry"]
    try:
        item = json.loads(entry) if isinstance(entry, str) else entry
        answer = item["answer"]
    except (ValueError, TypeError, KeyError):  # the reward itself says what is wrong with the row
        return None
    return f"<answer>{answer}</answer>" if isinstance(answer, str) else None


MAKERS: Mapping[str, Callable[[Mapping[str, Any]], str | None]] = {
    "math": _boxed,
    "exact": _stated,
    "multiple_choice": _stated,
    "contains": _every_keyword,
    "chrf": _reference,
    "reasoning_gym": _of_entry,
}
"""How a built-in's gold answer is made of a row's columns."""


def gold_answer(use: RewardUse, columns: Mapping[str, Any]) -> str | None:
    """A completion that `use` pays in full, think block included; None where the row doesn't say one."""
    given = columns.get("gold")
    if isinstance(given, str):
        return given
    maker = MAKERS.get(use.use)
    if maker is None or any(columns.get(name) is None for name in BUILTINS[use.use].columns):
        return None
    answer = maker(columns)
    return None if answer is None else f"<think>\nThe answer is known.\n</think>\n\n{answer}"
