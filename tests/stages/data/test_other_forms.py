"""Rows of other projects' data sets: read as they are, or told what to write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.configs.schema import PromptSource
from posttrain.errors import DataError
from posttrain.stages.data.load import check_source, load_prompts
from posttrain.stages.models.locations import Locations

SHAREGPT = [{"from": "system", "value": "Be short."}, {"from": "human", "value": "1+1?"}, {"from": "gpt", "value": "2"}]


def source(folder: Path, row: dict[str, Any], **fields: Any) -> PromptSource:
    (folder / "rows.jsonl").write_text(json.dumps(row) + "\n")
    return PromptSource.model_validate({"from": "rows.jsonl", **fields})


def test_sharegpts_turns_have_roles(tmp_path: Path) -> None:
    read = source(tmp_path, {"conversations": SHAREGPT}, columns={"messages": "conversations"})
    assert check_source(read, tmp_path, form="conversations").rows == 1
    ((prompt,),) = load_prompts([read], locations=Locations(recipe_dir=tmp_path), seed=0)
    assert prompt.messages == (
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "2"},
    )


@pytest.mark.parametrize(
    "turn", [{"from": "human"}, {"from": ["human"], "value": "x"}, {"from": "narrator", "value": "x"}]
)
def test_a_turn_that_is_nobodys_is_told(tmp_path: Path, turn: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"needs role and content|no role"):
        check_source(source(tmp_path, {"messages": [turn]}), tmp_path, form="conversations")


@pytest.mark.parametrize(
    ("row", "mapping"),
    [
        ({"id": "1", "conversations": SHAREGPT}, "{messages: conversations}"),
        ({"chat": [{"role": "user", "content": "x"}]}, "{messages: chat}"),
        ({"answer": "2", "question": "1+1?"}, "{prompt: question}"),
        ({"a": [1], "b": "x"}, "{prompt: COLUMN}"),
        ({"images": [{"value": 1}], "conversations": SHAREGPT}, "{messages: conversations}"),
    ],
)
def test_a_column_that_could_be_meant_is_named(tmp_path: Path, row: dict[str, Any], mapping: str) -> None:
    with pytest.raises(DataError) as told:
        check_source(source(tmp_path, row), tmp_path, form="conversations")
    assert f"columns: {mapping}" in told.value.fix


@pytest.mark.parametrize("content", ["", " \n", None])
def test_an_empty_last_turn_teaches_nothing(tmp_path: Path, content: str | None) -> None:
    turns = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": content}]
    with pytest.raises(DataError, match=r"the last turn is empty|content must be text"):
        check_source(source(tmp_path, {"messages": turns}), tmp_path, form="conversations")


def test_a_call_without_words_is_something_to_learn(tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": {}}}
    turns = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    assert check_source(source(tmp_path, {"messages": turns}), tmp_path, form="conversations").rows == 1
