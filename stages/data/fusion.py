"""Rows as training conversations: flags, switches and histories of thinking-mode fusion (report, 4.3 and Table 9).

Thinking rows carry /think or no flag at all (thinking is the default), non-thinking rows /no_think and an empty think
block as target; a share of the flags stands in the system message. A share of the non-thinking rows is asked with the
hard switch: the empty block stands in the prompt, and flags, which may be there, change nothing. In dialogues the last
flag met decides, and earlier turns have lost their think blocks, as they will have when the model is used.

What a row becomes depends on (seed, its place) alone. The shares are ours; the report has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from posttrain.configs.schema import DataSource
from posttrain.flags import FLAGS, flag_in_force, with_flag, with_system_flag, without_flag
from posttrain.stages.data.row_checks import check_response, row_messages
from posttrain.thinking import CLOSE, split_thinking

Conversation = list[dict[str, Any]]

INHERITED_SHARE = 0.5
"""Of a dialogue's last turns whose flag repeats the one in force, as many go without it."""

_HARD_FLAGS = ("", *FLAGS)


@dataclass(frozen=True, kw_only=True)
class Example:
    """A conversation whose last turn is the assistant's.

    >>> Example(where="chat.jsonl:7", messages=[{"role": "user", "content": "2+2? /no_think"},
    ...         {"role": "assistant", "reasoning_content": "", "content": "4"}])
    """

    where: str
    """File and line, or source and row."""
    messages: Conversation
    closed: bool = False
    """Asked with the hard switch (enable_thinking=False)."""
    tools: Any = None
    history: int = 0
    """How many turns in front, a system message aside, come from other rows."""


def example(row: dict[str, Any], source: DataSource, where: str, number: int, seed: int = 0) -> Example:
    """The row number `number` (from 1) of a source, with flag or switch.

    Raises:
        DataError: it has no messages, or nothing to learn from.
    """
    messages = list(row_messages(row, where))
    check_response(row, messages, where)
    if "response" in row:
        split = split_thinking(row["response"])
        messages.append({"role": "assistant", "reasoning_content": split.thinking, "content": split.answer})
    last = messages[-1]
    if CLOSE in (last.get("content") or "") and not last.get("reasoning_content"):  # thinking written into the text
        split = split_thinking(last["content"])
        messages[-1] = {**last, "reasoning_content": split.thinking, "content": split.answer}
    plain = Example(where=where, messages=messages, tools=row.get("tools"))
    rng = np.random.default_rng((seed, number))
    if source.flag == "mixed" and flag_in_force(messages):
        return plain  # a dialogue that has flags of its own was answered by them
    if _is_hard(row, source, messages[-1], rng):
        flag = _HARD_FLAGS[int(rng.integers(3))] if row.get("mode") != "closed" else ""
        return replace(plain, messages=_flagged(messages, flag, system=False), closed=True)
    return replace(
        plain, messages=_flagged(messages, _flag(row, source, number) or "", system=rng.random() < source.in_system)
    )


def _is_hard(row: dict[str, Any], source: DataSource, answer: dict[str, Any], rng: np.random.Generator) -> bool:
    drawn = rng.random() < source.hard_switch
    if answer.get("reasoning_content"):
        return False
    return drawn or (source.flag == "mixed" and row.get("mode") == "closed")


def _flag(row: dict[str, Any], source: DataSource, number: int) -> str | None:
    if source.flag != "mixed":
        return source.flag
    if row.get("mode") in ("no_think", "closed"):
        return "/no_think"
    # Spread evenly: of any run of rows, as large a share has none.
    return None if int(number * source.unflagged) > int((number - 1) * source.unflagged) else "/think"


def _flagged(messages: Conversation, flag: str, *, system: bool) -> Conversation:
    if not flag:
        return messages
    put = with_system_flag if system and flag_in_force(messages[:-1]) is None else with_flag
    return [*map(dict, put(messages[:-1], flag)), messages[-1]]


class Earlier:
    """Conversations of one question and its answer, drawn by the weights of their sources, as batches are.

    Drawn by rows, a large non-thinking source would fill nearly all histories, and a turn without a flag would come
    to mean: don't think.
    """

    def __init__(self, sources: Sequence[Sequence[Example]], weights: Sequence[float]) -> None:
        short = [[e.messages for e in source if _is_short(e)] for source in sources]
        self.pools = [pool for pool in short if pool]
        shares = np.array([w for w, pool in zip(weights, short, strict=True) if pool])
        self.shares = shares / shares.sum()

    def draw(self, n: int, rng: np.random.Generator) -> list[Conversation]:
        """`n` conversations, independently."""
        pools = [self.pools[int(i)] for i in rng.choice(len(self.pools), size=n, p=self.shares)]
        return [pool[int(rng.integers(len(pool)))] for pool in pools]


def _is_short(found: Example) -> bool:
    turns = found.messages
    return len(turns) == 2 and not turns[1].get("tool_calls") and not found.closed


def dialogue(last: Example, earlier: Earlier, rng: np.random.Generator) -> Example:
    """Put one or two other conversations in front, behind the system message; the last turn keeps its mode.

    A turn without a flag inherits the last flag met (report, 4.3). So a turn whose own flag stands in the system
    message, or is the default, gets it where it would inherit another one; and half of the turns whose flag only
    repeats what is in force lose it, so that inheriting is trained too.
    """
    history = [m for conversation in earlier.draw(int(rng.integers(1, 3)), rng) for m in conversation]
    begin = 1 if last.messages[0]["role"] == "system" else 0
    system, question, answer = last.messages[:begin], last.messages[begin:-1], last.messages[-1]
    inherited, own = flag_in_force([*system, *history]), flag_in_force(last.messages)
    wanted = own or ("think" if answer.get("reasoning_content") else None)
    if flag_in_force(question) is None:
        if not last.closed and wanted is not None and wanted != (inherited or "think"):
            question = list(map(dict, with_flag(question, f"/{wanted}")))
    elif own == inherited and len(question) == 1 and rng.random() < INHERITED_SHARE:
        question = list(map(dict, without_flag(question, f"/{own}")))
    return replace(last, messages=[*system, *history, *question, answer], history=len(history))


def targets(found: Example, turns: str) -> tuple[list[Conversation], int]:
    """The conversations whose last turn is to be learned, and how many turns aren't, since they contradict their mode.

    `last`: the row's last turn. `each`: every assistant turn of the row, in the history that it had. An earlier turn
    that has no thinking where its mode asks for some has most likely lost it, as histories do: as a target it would
    teach not to think. The last turn is taken as it is.
    """
    if turns != "each":
        return [found.messages], 0
    begin = found.history + (found.messages[0]["role"] == "system")
    learned, left = [], 0
    for at, message in enumerate(found.messages):
        if message["role"] != "assistant" or at < begin:
            continue
        before = found.messages[:at]
        thinks = (flag_in_force(before) or "think") == "think" and not found.closed
        if at == len(found.messages) - 1 or bool(_thinking(message)) == thinks:
            learned.append([*before, message])
        else:
            left += 1
    return learned, left


def _thinking(message: dict[str, Any]) -> str:
    return str(message.get("reasoning_content") or "") or split_thinking(str(message.get("content") or "")).thinking
