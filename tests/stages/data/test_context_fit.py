"""Prompts that leave no room for their completion: refused, skipped or dropped before anything is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from posttrain.configs.schema import Evaluate, Grpo, RolloutCluster, SampleStage
from posttrain.errors import DataError
from posttrain.stages import sample
from posttrain.stages.data.context_fit import Fit, Room, context_tokens
from posttrain.stages.data.load import load_all
from posttrain.stages.data.store import write_rows
from posttrain.stages.evaluate import _prompts
from posttrain.types import Prompt

from ..stand_ins import Context, write

SHORT, LONG = {"prompt": "1+1?", "answer": "2"}, {"prompt": "1+1? " * 600, "answer": "2"}
MAX_TOKENS = 1000
"""Of the tiny model's 2,048."""


def fitting(
    folder: Path, rows: list[dict[str, Any]], stage: bool = False, **source: Any
) -> tuple[list[Prompt], Context]:
    """The prompts of a file, or of a stage's artifact, as a stage that answers loads them."""
    spec = Grpo.model_validate(
        {"kind": "grpo", "model": "base", "prompts": {"from": "rows.jsonl", **source}, "rewards": "math"}
    )
    context = Context(folder, "rl", spec, seed=0)
    write(folder / "rows.jsonl", rows)
    if stage:
        (folder / "made").mkdir()
        write_rows(folder / "made", rows)
        context.inputs["rows.jsonl"] = folder / "made"
    (prompts,) = load_all(context, spec.prompts, fit=Fit.of(context, spec.model, MAX_TOKENS))  # type: ignore[arg-type]
    return prompts, context


def test_a_long_prompt_is_refused_with_its_row(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"row 2 .*: a prompt of \d+ tokens and a completion of 1000 don't fit a"
    ) as told:
        fitting(tmp_path, [SHORT, LONG])
    assert "on_bad_row: skip" in told.value.fix


def test_or_skipped_and_counted(tmp_path: Path) -> None:
    prompts, context = fitting(tmp_path, [SHORT, LONG, SHORT], on_bad_row="skip", max_bad_share=0.4)
    assert [p.messages[-1]["content"] for p in prompts] == ["1+1?", "1+1?"]
    assert any("skipped 1 malformed or too long rows" in line and "row 2" in line for line in context.said)


def test_more_than_the_cap_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"2 of 3 rows are malformed or too long, more than max_bad_share=0.5"):
        fitting(tmp_path, [SHORT, LONG, LONG], on_bad_row="skip", max_bad_share=0.5)


def test_a_source_of_long_prompts_alone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no prompt is left to answer; the first: a prompt of"):
        fitting(tmp_path, [LONG], on_bad_row="skip", max_bad_share=1)


def test_a_row_of_training_data_is_no_prompt(tmp_path: Path) -> None:
    done = {"messages": [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]}
    with pytest.raises(DataError, match=r"row 2 .*: the prompt ends with an assistant's turn"):
        fitting(tmp_path, [SHORT, done])
    assert len(fitting(tmp_path, [SHORT, done], on_bad_row="skip", max_bad_share=0.5)[0]) == 1


def test_another_stages_are_skipped_since_nobody_can_mend_them(tmp_path: Path) -> None:
    prompts, _ = fitting(tmp_path, [SHORT] * 199 + [LONG], stage=True)
    assert len(prompts) == 199


@pytest.mark.parametrize("prompt", ["x", "naïve", "数学" * 40, "a b c " * 30])
def test_bytes_never_call_a_prompt_short_that_is_long(prompt: str, tokenizer: Any) -> None:
    from posttrain.stages.models.chat import ChatFormat

    asked = Prompt(id="p", messages=({"role": "user", "content": prompt},))
    tokens = len(ChatFormat(tokenizer).prompt_ids(asked))
    assert Room(max_tokens=0, limit=tokens - 1).may_lack(asked)
    chat = ChatFormat(tokenizer)
    assert Fit(room=Room(max_tokens=0, limit=tokens - 1), chat=chat).wrong(asked) is not None
    assert Fit(room=Room(max_tokens=0, limit=tokens), chat=chat).wrong(asked) is None


@pytest.mark.parametrize("where", ["tool_calls", "reasoning_content", "tools"])
def test_what_a_template_writes_beside_contents_counts(tokenizer: Any, where: str) -> None:
    from posttrain.stages.models.chat import ChatFormat

    call = {"type": "function", "function": {"name": "f", "arguments": {"x": "1+1 " * 900}}}
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "2"}, {"role": "user", "content": "?"}]
    if where == "tools":
        tool = {"type": "function", "function": {"name": "f", "description": "1+1 " * 900, "parameters": {}}}
        asked = Prompt(id="p", messages=tuple(turns), columns={"tools": [tool]})
    else:
        turns[1] = {**turns[1], where: [call] if where == "tool_calls" else "1+1 " * 900}
        asked = Prompt(id="p", messages=(*turns[:2], {"role": "tool", "content": "2"}))
    tokens = len(ChatFormat(tokenizer).prompt_ids(asked))
    assert tokens > 900
    assert Fit(room=Room(max_tokens=0, limit=tokens - 1), chat=ChatFormat(tokenizer)).wrong(asked) is not None


def test_a_worker_may_be_given_less_than_the_model_has() -> None:
    config = {"max_position_embeddings": 40960}
    assert context_tokens(config, RolloutCluster()) == 40960
    assert context_tokens(config, RolloutCluster(engine="vllm", gpus=1, max_context=8192)) == 8192
    assert context_tokens({}, RolloutCluster()) is None


def test_an_evaluation_refuses_what_a_stage_gave_it(tmp_path: Path) -> None:
    suite = {"name": "sums", "prompts": "made", "rewards": "math", "sampling": {"max_tokens": MAX_TOKENS}}
    spec = Evaluate.model_validate({"kind": "evaluate", "model": "base", "suites": [suite]})
    context = Context(tmp_path, "eval", spec, seed=0)
    context.inputs["made"] = tmp_path / "made"
    (tmp_path / "made").mkdir()
    write_rows(tmp_path / "made", [SHORT, LONG])
    with pytest.raises(DataError, match=r"suite sums: row 2 .*: a prompt of \d+ tokens"):
        _prompts(context, spec.suites[0])  # type: ignore[arg-type]


def test_a_model_at_an_endpoint_is_asked_no_training_data(tmp_path: Path) -> None:
    done = {"messages": [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]}
    write(tmp_path / "rows.jsonl", [LONG, done])
    teacher = {"endpoint": "http://127.0.0.1:1/v1", "model": "m"}
    spec = SampleStage.model_validate({"kind": "sample", "endpoint": teacher, "prompts": "rows.jsonl"})
    with pytest.raises(DataError, match=r"row 2 .*: the prompt ends with an assistant's turn"):
        list(sample._prompts(Context(tmp_path, "s", spec, seed=0), spec))  # type: ignore[arg-type]
