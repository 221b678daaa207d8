"""Chat: byte for byte the template's own output; what is trained is what will be seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from posttrain.errors import DataError, HandoverError
from posttrain.flags import last_flag, with_flag
from posttrain.stages.models.chat import ChatFormat, check_handover
from posttrain.stages.models.templates import trl_template
from posttrain.thinking import split_thinking
from posttrain.types import Prompt

TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}]
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
USER, ANSWER = {"role": "user", "content": "1+1?"}, {"role": "assistant", "reasoning_content": "1+1=2", "content": "2"}


@pytest.fixture(scope="module")
def chat(tokenizer: Any) -> ChatFormat:
    return ChatFormat(tokenizer)


@pytest.mark.parametrize(
    "messages",
    [
        [USER],
        [{"role": "system", "content": "Be brief."}, USER],
        [USER, ANSWER, {"role": "user", "content": "2+2?"}],
        [USER, {"role": "assistant", "content": "", "tool_calls": [CALL]}, {"role": "tool", "content": "2"}],
    ],
)
@pytest.mark.parametrize("mode", ["default", "closed"])
@pytest.mark.parametrize("tools", [None, TOOLS])
def test_prompts_equal_qwen3s_template(chat: ChatFormat, tokenizer: Any, messages: Any, mode: Any, tools: Any) -> None:
    prompt = Prompt(id="x", messages=tuple(messages), mode=mode, columns={"tools": tools} if tools else {})
    expected = tokenizer.apply_chat_template(
        messages, tools=tools, chat_template=trl_template("qwen3"), add_generation_prompt=True,
        enable_thinking=mode != "closed", tokenize=False,
    )  # fmt: skip
    assert tokenizer.decode(chat.prompt_ids(prompt)) == expected


def test_history_loses_its_thinking_in_prompts(chat: ChatFormat, tokenizer: Any) -> None:
    prompt = Prompt(id="x", messages=(USER, ANSWER, {"role": "user", "content": "2+2?"}))
    assert "1+1=2" not in tokenizer.decode(chat.prompt_ids(prompt))


def test_one_turn_is_trained_alike_by_both_renderings(chat: ChatFormat) -> None:
    whole, last = chat.conversation([USER, ANSWER]), chat.last_turn([USER, ANSWER])
    n = last.tokens
    assert whole.ids[:n].tolist() == last.ids.tolist()
    assert whole.loss_mask[:n].tolist() == last.loss_mask.tolist()
    assert not whole.loss_mask[n:].any()


def test_targets_are_the_answer_its_think_block_and_its_end(chat: ChatFormat, tokenizer: Any) -> None:
    sample = chat.last_turn([USER, ANSWER])
    assert tokenizer.decode(sample.ids[sample.loss_mask > 0]) == "<think>\n1+1=2\n</think>\n\n2<|im_end|>"


def test_an_empty_block_is_a_target_with_qwen3s_form(chat: ChatFormat, tokenizer: Any) -> None:
    sample = chat.last_turn([with_flag([USER], "/no_think")[0], {"role": "assistant", "content": "2"}])
    assert tokenizer.decode(sample.ids[sample.loss_mask > 0]).startswith("<think>\n\n</think>\n\n2")


def test_a_tool_call_is_trained_as_the_template_renders_it(chat: ChatFormat, tokenizer: Any) -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    tools = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
    asked = {"role": "assistant", "content": None, "reasoning_content": "sum", "tool_calls": [call]}
    sample = chat.last_turn([USER, asked], tools)
    target = tokenizer.decode(sample.ids[sample.loss_mask > 0])
    assert target == (
        '<think>\nsum\n</think>\n\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call><|im_end|>'
    )
    assert '"name": "add", "parameters"' in tokenizer.decode(sample.ids[sample.loss_mask == 0])


def test_a_template_that_drops_thinking_is_refused(tokenizer: Any) -> None:
    import copy

    plain = copy.deepcopy(tokenizer)
    plain.chat_template = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    answer = {"role": "assistant", "content": "2"}
    assert ChatFormat(plain).last_turn([USER, answer]).loss_mask.sum() == 2
    with pytest.raises(DataError, match="with its thinking"):
        ChatFormat(plain).last_turn([USER, {**answer, "reasoning_content": "1+1"}])


def test_conversations_without_an_assistant_are_refused(chat: ChatFormat) -> None:
    with pytest.raises(DataError, match="assistant"):
        chat.conversation([USER])


def test_every_assistant_turn_of_a_conversation_is_target(chat: ChatFormat, tokenizer: Any) -> None:
    sample = chat.conversation([USER, ANSWER, {"role": "user", "content": "3?"}, {"role": "assistant", "content": "3"}])
    text = tokenizer.decode(sample.ids[sample.loss_mask > 0])
    assert "1+1=2" in text
    assert text.count("<|im_end|>") == 2
    assert "user" not in text


@pytest.mark.parametrize("mode", ["think", "no_think"])
def test_soft_switches_stand_behind_the_query_after_a_space(chat: ChatFormat, tokenizer: Any, mode: Any) -> None:
    text = tokenizer.decode(chat.prompt_ids(Prompt(id="x", messages=(USER,), mode=mode)))
    assert f"1+1? /{mode}<|im_end|>" in text


@pytest.mark.parametrize(
    ("turns", "flag"),
    [
        (["hi"], None),
        (["hi /think", "ho /no_think"], "no_think"),
        (["hi /no_think", "ho"], "no_think"),
        (["/no_think a /think"], "think"),
        (["a path/think"], None),
    ],
)
def test_the_last_flag_wins(turns: list[str], flag: str | None) -> None:
    assert last_flag(turns) == flag


@pytest.mark.parametrize(
    ("text", "answer", "well_formed"),
    [
        ("<think>\na\n</think>\n\nb", "b", True),
        ("<think>\n\n</think>\n\nb", "b", True),
        ("<think>\na", "", False),
        ("b", "b", False),
        ("a</think>b", "b", False),
        ("<think>a</think>b<think>c</think>d", "d", False),
        ("<think>\na\n</think>\n\n", "", False),
        ("x<think>a</think>b", "b", False),
    ],
)
def test_think_blocks_are_read_from_the_right(text: str, answer: str, well_formed: bool) -> None:
    split = split_thinking(text)
    assert (split.answer, split.well_formed) == (answer, well_formed)


def test_handover_shows_both_sides(chat: ChatFormat) -> None:
    ours = chat.fingerprint()
    theirs = {**ours, "stop_ids": [1]}
    with pytest.raises(HandoverError, match=r"stop_ids.*\[1\]"):
        check_handover(ours, theirs, "student", "teacher")
    check_handover(ours, dict(ours), "student", "teacher")


def test_ids_are_never_made_from_decoded_text(chat: ChatFormat) -> None:
    # Not every id sequence survives decoding: two halves of a character do not.
    pieces = chat.tokenizer("漢", add_special_tokens=False)["input_ids"]
    assert chat.tokenizer(chat.decode(pieces[:1]), add_special_tokens=False)["input_ids"] != list(pieces[:1])
    assert np.asarray(pieces).ndim == 1
