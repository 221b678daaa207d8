"""What a row must hold to be a query, a training conversation or a document; each problem is told by its place."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from posttrain.configs.loading.problems import closest
from posttrain.errors import DataError
from posttrain.types import Mode, Row

MODES = (*get_args(Mode), "mixed")
ROLES = ("system", "user", "assistant", "tool")
SPEAKERS = {"human": "user", "gpt": "assistant", "observation": "tool"}
"""ShareGPT's names; others are ours."""
TURNS = ({"role", "content"}, {"from", "value"})
QUERIES = ("question", "query", "problem", "instruction", "input", "text")
"""Columns of other data sets in which queries stand."""
LONGEST_TEXT = 4 << 20
"""Characters of all turns together: see `files.LONGEST_LINE`."""


def with_messages(row: Row) -> Row:
    """A row in the form that TRL and verl give theirs, as ours: a `prompt` of messages is `messages`, a `response` of
    one assistant turn its text, or the last of them where it says more than text (its reasoning, tool calls). Turns in
    ShareGPT's form (`from`, `value`) have roles and contents.
    """
    if isinstance(row.get("prompt"), list) and row["prompt"] and row.get("messages") is None:
        row = {name: value for name, value in row.items() if name != "prompt"} | {"messages": row["prompt"]}
    if isinstance(row.get("messages"), list) and any(isinstance(m, dict) and "from" in m for m in row["messages"]):
        row = {**row, "messages": [_turn(message) for message in row["messages"]]}
    match row.get("response"):
        case [{"role": "assistant", **more} as turn]:
            if set(more) == {"content"} and isinstance(more["content"], str):
                return {**row, "response": more["content"]}
            asked = row.get("messages") or [{"role": "user", "content": row.get("prompt")}]
            row = {name: value for name, value in row.items() if name != "response"} | {"messages": [*asked, turn]}
    return row


def _turn(message: Any) -> Any:
    if not isinstance(message, dict) or set(message) & {"role", "content"} or not {"from", "value"} <= set(message):
        return message
    left = {name: value for name, value in message.items() if name not in ("from", "value")}
    return {"role": SPEAKERS.get(str(message["from"]), message["from"]), "content": message["value"], **left}


def row_messages(row: Row, where: str) -> list[dict[str, Any]]:
    """The row's `messages`, or its `prompt` as one user turn (see `with_messages`).

    Raises:
        DataError: neither is there, a turn has no role or content, or holds what no model reads.
    """
    messages = row.get("messages")
    if messages is None:
        prompt = row.get("prompt")
        if isinstance(prompt, str) and prompt.strip():
            _check_text(prompt, "prompt", where)
            return [{"role": "user", "content": prompt}]
        if "prompt" in row:
            empty = isinstance(prompt, str | list)
            what = "is empty" if empty else f"must be text or messages, this is {_shown(prompt)}"
            raise DataError(f"`prompt` {what}", where=where, fix="write it, or leave the row out")
        raise DataError(
            f"a row has neither `messages` nor `prompt`; its columns are {sorted(map(str, row))}", where=where,
            fix=f"map them: columns: {_mapping(row)}",
        )  # fmt: skip
    if not isinstance(messages, list) or not messages:
        raise DataError("`messages` must be a non-empty list", where=where)
    for message in messages:
        _check_message(message, where)
    if sum(len(m.get("content") or "") for m in messages) > LONGEST_TEXT:
        raise DataError(f"more than {LONGEST_TEXT} characters", where=where, fix="cut or delete the row")
    asked = [m for m in messages if m["role"] != "assistant"]
    if not any((m.get("content") or "").strip() for m in asked):
        raise DataError("an empty prompt: no turn but the assistant's says anything", where=where)
    return messages


def _mapping(row: Row) -> str:
    """What to write for the column that holds the query, as far as its values show."""
    lists = {n: v for n, v in row.items() if isinstance(v, list) and v and isinstance(v[0], dict)}
    talks = [n for n, v in lists.items() if any(turn <= set(v[0]) for turn in TURNS)]
    if talks:
        return f"{{messages: {talks[0]}}}"
    return f"{{prompt: {next((name for name in QUERIES if name in row), 'COLUMN')}}}"


def _check_message(message: Any, where: str) -> None:
    if (
        not isinstance(message, dict)
        or "role" not in message
        or ("content" not in message and "tool_calls" not in message)
    ):
        raise DataError(f"a message needs role and content, this is {_shown(message)}", where=where)
    if message["role"] not in ROLES:
        hint = closest(str(message["role"]), ROLES)
        raise DataError(f"no role {_shown(message['role'])}; {hint}", where=where)
    content = message.get("content")
    if content is None and message.get("tool_calls"):
        return
    if not isinstance(content, str):
        raise DataError(f"a message's content must be text, this is {_shown(content)}", where=where)
    _check_text(content, "content", where)


def _check_text(text: str, name: str, where: str) -> None:
    if "\0" in text:
        raise DataError(f"`{name}` holds a NUL character", where=where)
    if len(text) > LONGEST_TEXT:
        raise DataError(f"`{name}` has {len(text)} characters", where=where, fix="cut or delete the row")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataError(f"`{name}` holds half a surrogate pair", where=where) from None


def check_response(row: Row, messages: Sequence[Mapping[str, Any]], where: str) -> None:
    """Raises DataError unless the row has something to learn: a text `response`, or a last assistant turn."""
    if "response" in row:
        if not isinstance(row["response"], str):
            raise DataError(
                f"`response` must be text, this is {_shown(row['response'])}", where=where,
                fix="write it as a string, or leave the row out",
            )  # fmt: skip
        _check_text(row["response"], "response", where)
        if not row["response"].strip():
            raise DataError("`response` is empty: nothing is learnt from it", where=where, fix="leave the row out")
    elif messages[-1]["role"] != "assistant":
        fix = "map it: columns: {response: completion}" if "completion" in row else ""
        raise DataError("a training row needs a `response` or a last assistant turn", where=where, fix=fix)
    elif not (messages[-1].get("content") or "").strip() and not messages[-1].get("tool_calls"):
        raise DataError("the last turn is empty: nothing is learnt from it", where=where, fix="leave the row out")


def check_document(row: Row, where: str) -> None:
    """Raises DataError unless the row is a plain document."""
    if not isinstance(row.get("text"), str):
        raise DataError("a document needs the column `text`", where=where)
    if not row["text"]:
        raise DataError("an empty document", where=where)


def row_mode(row: Row, where: str) -> str:
    """The row's own mode. Raises DataError if there is none of that name."""
    mode = row.get("mode") or "default"
    if mode not in MODES:
        hint = closest(str(mode), MODES)
        raise DataError(f"no mode {mode!r}; {hint}", where=where, fix="fix the column `mode`, or rename it")
    return str(mode)


def _shown(value: Any) -> str:
    return json.dumps(value, default=str)[:80]
