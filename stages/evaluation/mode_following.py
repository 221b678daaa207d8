"""Mode following, asked turn after turn: the model's own answers, think blocks stripped, are the history.

A turn passes iff its form is the one that its mode asks for (`rewards/rules/modes.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from posttrain.flags import flagged
from posttrain.rewards.rules.modes import follows
from posttrain.stages.evaluation.intervals import Table, summary
from posttrain.thinking import answer_of
from posttrain.types import Group, Mode, Prompt, Row, Score, ScoredGroup

Ask = Callable[[int, Mode, Sequence[Prompt]], Iterable[Group]]
"""The turn, the mode that sampling settings and the hard switch depend on, and the prompts: one completion each."""


def follow(prompts: Sequence[Prompt], ask: Ask) -> tuple[Table, dict[str, list[ScoredGroup]]]:
    """Hold each dialogue; returns what passed, [dialogues, turns], nan behind a dialogue's last, and all that was said.

    The columns `queries`, `flags` and `modes` have an entry a turn; `system`, if it is there, comes before them. A
    turn whose mode is `closed` is asked with enable_thinking=False.
    """
    histories = [_opening(prompt) for prompt in prompts]
    longest = max(len(prompt.columns["queries"]) for prompt in prompts)
    passed = np.full((len(prompts), longest), np.nan)
    said: dict[str, list[ScoredGroup]] = {}
    for turn in range(longest):
        here = [i for i, prompt in enumerate(prompts) if turn < len(prompt.columns["queries"])]
        asked = {i: _turn(prompts[i], histories[i], turn) for i in here}
        modes: tuple[Mode, ...] = ("default", "closed")
        for mode in modes:
            same = [prompt for prompt in asked.values() if prompt.mode == mode]
            found = {group.prompt.id: group for group in ask(turn, mode, same)} if same else {}
            for i in (i for i in here if asked[i].mode == mode):
                group = found[asked[i].id]
                text, wanted = group.completions[0].text, prompts[i].columns["modes"][turn]
                passed[i, turn] = follows(text, wanted)
                verdict = Score(value=float(passed[i, turn]), parts={wanted: float(passed[i, turn])})
                said.setdefault(f"turn {turn + 1}", []).append(ScoredGroup(group=group, scores=(verdict,)))
                histories[i].append({"role": "assistant", "content": answer_of(text)})
    return passed, said


def follow_rows(prompts: Sequence[Prompt], passed: Table) -> list[Row]:
    """Table rows: all dialogues under `flags`; then, where there are several variants, each under its own name."""
    rows = _rows("flags", passed)
    wanted = np.full(passed.shape, "", object)
    for i, prompt in enumerate(prompts):
        wanted[i, : len(prompt.columns["modes"])] = prompt.columns["modes"]
    for mode in ("think", "no_think", "closed"):
        if mode != "closed" or (wanted == mode).any():
            rows.append(summary("flags", f"turns/{mode}", np.where(wanted == mode, passed, np.nan)))
    variants = [str(prompt.columns.get("variant") or "user") for prompt in prompts]
    for variant in dict.fromkeys(variants) if len(set(variants)) > 1 else ():
        rows += _rows(variant, passed[np.array(variants) == variant])
    return rows


def _rows(name: str, passed: Table) -> list[Row]:
    return [summary(name, "turns", passed), summary(name, "dialogues", np.nanmin(passed, 1, keepdims=True))]


def _opening(prompt: Prompt) -> list[dict[str, Any]]:
    system = prompt.columns.get("system")
    return [{"role": "system", "content": system}] if system else []


def _turn(prompt: Prompt, history: list[dict[str, Any]], turn: int) -> Prompt:
    query, flag = prompt.columns["queries"][turn], prompt.columns["flags"][turn]
    history.append({"role": "user", "content": flagged(query, flag) if flag else query})
    mode: Mode = "closed" if prompt.columns["modes"][turn] == "closed" else "default"
    return Prompt(id=prompt.id, messages=tuple(history), mode=mode, task=prompt.task, domain=f"turn{turn + 1}")
