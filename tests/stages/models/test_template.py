"""The template contract, by the tiny tokenizer and by Qwen3's own: what is trained is what is asked and what is read.

The oracle is transformers' apply_chat_template of Qwen3's template as TRL ships it.
"""

from __future__ import annotations

import unicodedata
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from posttrain.errors import DataError
from posttrain.rewards.rules.tools import read_calls
from posttrain.stages.data.fusion import Example, targets
from posttrain.stages.models.chat import ChatFormat
from posttrain.stages.models.templates import trl_template
from posttrain.thinking import split_thinking
from posttrain.types import Prompt

from .qwen3_tokenizer import ADDED, qwen3_tokenizer

Messages = list[dict[str, Any]]
TOOLS = [
    {"type": "function", "function": {"name": name, "description": about, "parameters": {"type": "object"}}}
    for name, about in (("look_up", "Finds 日本 and ümläute."), ("add", 'Adds "numbers".'))
]


@pytest.fixture(scope="module", params=["tiny", "qwen3"])
def chat(request: pytest.FixtureRequest) -> ChatFormat:
    return ChatFormat(request.getfixturevalue("tokenizer") if request.param == "tiny" else qwen3_tokenizer())


@pytest.fixture(scope="module")
def qwen3() -> Any:
    return qwen3_tokenizer()


# Whatever a person or a model may write, the template's own marks aside; NFC, since Qwen3's tokenizer makes it so.
PIECES = st.sampled_from(
    ["\n", "\n\n", " ", "é", "漢字", "🙂", "👩‍👩‍👧", "x", "12", ". ", '"', "\\", "{", "}", "</", "\t", "و"]
)
TEXT = st.lists(PIECES | st.text(max_size=4), max_size=6).map(
    lambda parts: unicodedata.normalize("NFC", "".join(parts)).replace("\0", "")
)
SAID = TEXT.filter(str.strip)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | SAID,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(SAID, inner, max_size=2),
)


@st.composite
def calls(draw: Any) -> list[dict[str, Any]]:
    names = draw(st.lists(st.sampled_from(["look_up", "add"]), min_size=1, max_size=2))
    arguments = st.dictionaries(st.sampled_from(["query", "größe", "x y"]), VALUES, max_size=2)
    return [{"type": "function", "function": {"name": name, "arguments": draw(arguments)}} for name in names]


@st.composite
def conversations(draw: Any) -> Messages:
    """Users, assistants that think or don't, loops of tools: the last turn is an assistant's."""
    messages: Messages = [{"role": "system", "content": draw(SAID)}] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        messages.append({"role": "user", "content": draw(SAID)})
        for _ in range(draw(st.integers(0, 2))):
            asked = draw(calls())
            messages.append(
                {"role": "assistant", "content": draw(TEXT), "reasoning_content": draw(TEXT), "tool_calls": asked}
            )
            messages += [{"role": "tool", "content": draw(SAID)} for _ in asked]
        messages.append({"role": "assistant", "content": draw(SAID), "reasoning_content": draw(TEXT)})
    return messages


def oracle(chat: ChatFormat, messages: Messages, **options: Any) -> str:
    return str(
        chat.tokenizer.apply_chat_template(
            messages, tools=TOOLS, chat_template=trl_template("qwen3"), tokenize=False, **options
        )
    )


def ids(chat: ChatFormat, text: str) -> list[int]:
    return list(chat.tokenizer(text, add_special_tokens=False)["input_ids"])


FEW = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


@FEW
@given(messages=conversations())
def test_each_assistant_turn_is_one_sample_of_what_is_asked_and_what_is_said(
    chat: ChatFormat, messages: Messages
) -> None:
    ends = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
    for end in ends:
        sample = chat.last_turn(messages[: end + 1], TOOLS)
        targeted = np.flatnonzero(sample.loss_mask)
        prompt = sample.ids[: targeted[0]]
        asked = Prompt(id="x", messages=tuple(messages[:end]), columns={"tools": TOOLS})
        assert prompt.tolist() == chat.prompt_ids(asked).tolist()
        assert prompt.tolist() == ids(chat, oracle(chat, messages[:end], add_generation_prompt=True))
        assert sample.ids.tolist() == ids(chat, oracle(chat, messages[: end + 1]).removesuffix("\n"))
        assert targeted.tolist() == list(range(targeted[0], sample.tokens))
        assert sample.ids[-1] == chat.end_of_turn
        assert chat.end_of_turn not in sample.ids[targeted[:-1]]


@FEW
@given(messages=conversations())
def test_a_target_parses_back_to_the_turn_that_it_was_made_of(chat: ChatFormat, messages: Messages) -> None:
    for end, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        sample = chat.last_turn(messages[: end + 1], TOOLS)
        text = chat.decode(sample.ids[sample.loss_mask > 0].tolist())
        split = split_thinking(text)
        said, _, called = split.answer.partition("<tool_call>")
        assert split.thinking == message["reasoning_content"].strip("\n")
        assert said.strip() == message["content"].strip()
        found = [(call.name, call.arguments) for call in read_calls("<tool_call>" + called) or ()] if called else []
        wanted = [(c["function"]["name"], c["function"]["arguments"]) for c in message.get("tool_calls", ())]
        assert found == wanted


@FEW
@given(messages=conversations())
def test_thinking_of_earlier_queries_is_gone_and_that_of_the_tool_loop_stays(
    chat: ChatFormat, messages: Messages
) -> None:
    numbered = [
        {**m, "reasoning_content": f"thought-{i}"} if m["role"] == "assistant" else m for i, m in enumerate(messages)
    ]
    sample = chat.last_turn(numbered, TOOLS)
    text = chat.tokenizer.decode(sample.ids)
    last_query = max(i for i, m in enumerate(numbered) if m["role"] == "user")
    for i, message in enumerate(numbered):
        if message["role"] == "assistant":
            assert (f"thought-{i}\n" in text) == (i > last_query)


@FEW
@given(question=SAID, answer=SAID)
def test_the_hard_switch_asks_with_the_empty_block_and_trains_the_answer_alone(
    chat: ChatFormat, question: str, answer: str
) -> None:
    asked, said = {"role": "user", "content": question}, {"role": "assistant", "content": answer}
    sample = chat.last_turn([asked, said], closed=True)
    targeted = np.flatnonzero(sample.loss_mask)
    prompt = chat.prompt_ids(Prompt(id="x", messages=(asked,), mode="closed"))
    assert sample.ids[: targeted[0]].tolist() == prompt.tolist()
    block = [chat.open_id, *ids(chat, "\n\n"), chat.close_id, *ids(chat, "\n\n")]
    assert prompt.tolist()[-len(block) :] == block
    assert chat.tokenizer.decode(sample.ids[targeted]) == f"{answer.lstrip(chr(10))}<|im_end|>"
    assert chat.open_id not in sample.ids[targeted]


@FEW
@given(question=SAID, answer=SAID)
def test_the_soft_switch_trains_the_empty_block_before_the_same_answer(
    chat: ChatFormat, question: str, answer: str
) -> None:
    asked = {"role": "user", "content": f"{question} /no_think"}
    sample = chat.last_turn([asked, {"role": "assistant", "content": answer}])
    target = sample.ids[sample.loss_mask > 0].tolist()
    block = [chat.open_id, *ids(chat, "\n\n"), chat.close_id, *ids(chat, "\n\n")]
    assert target[: len(block)] == block
    closed = chat.last_turn([asked, {"role": "assistant", "content": answer}], closed=True)
    assert sample.ids.tolist() == closed.ids.tolist()
    assert int(sample.loss_mask.sum()) == int(closed.loss_mask.sum()) + len(block)


def test_a_thinking_turn_cannot_be_trained_with_the_hard_switch(chat: ChatFormat) -> None:
    turns = [{"role": "user", "content": "1?"}, {"role": "assistant", "reasoning_content": "one", "content": "1"}]
    with pytest.raises(DataError, match="with its thinking"):
        chat.last_turn(turns, closed=True)


def test_turns_of_a_tool_loop_are_samples_of_their_own(chat: ChatFormat) -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    messages: Messages = [
        {"role": "user", "content": "1+1, twice?"},
        {"role": "assistant", "content": "", "reasoning_content": "first", "tool_calls": [call]},
        {"role": "tool", "content": "2"},
        {"role": "assistant", "content": "4", "reasoning_content": "second"},
    ]
    learned, _ = targets(Example(where="x", messages=messages), "each")
    samples = [chat.last_turn(conversation, TOOLS) for conversation in learned]
    first, second = (chat.tokenizer.decode(s.ids[s.loss_mask > 0]) for s in samples)
    assert first.startswith("<think>\nfirst\n</think>\n\n<tool_call>")
    assert second == "<think>\nsecond\n</think>\n\n4<|im_end|>"
    whole = samples[1].ids.tolist()
    assert whole[: samples[0].tokens] == samples[0].ids.tolist()  # within the loop, a prefix


# ---------------------------------------------------------------- Qwen3's own tokenizer


def test_the_ids_are_those_that_the_report_and_qwens_documents_give(qwen3: Any) -> None:
    assert qwen3.convert_tokens_to_ids(ADDED) == list(range(151643, 151669))
    assert [qwen3(text)["input_ids"] for text in ("\n", "\n\n", ".\n", ".\n\n")] == [[198], [271], [624], [382]]
    assert qwen3("<think>\n\n</think>\n\n")["input_ids"] == [151667, 271, 151668, 271]
    assert qwen3("Hello world 2024")["input_ids"] == [9707, 1879, 220, 17, 15, 17, 19]


def test_every_rank_can_be_reached_by_merging(qwen3: Any) -> None:
    letters = qwen3.backend_tokenizer.model
    vocabulary = qwen3.get_vocab()
    sample = [token for token, rank in vocabulary.items() if rank < 151643 and rank % 97 == 0]
    assert len(sample) > 1500
    assert [t for t in sample if [piece.id for piece in letters.tokenize(t)] != [vocabulary[t]]] == []


def test_the_early_stop_and_the_empty_block_are_ids_that_training_has(qwen3: Any) -> None:
    chat = ChatFormat(qwen3)
    assert chat.early_stop[-2:] == (151668, 271)
    assert chat.empty_block == (271, 151668, 271)
    assert 382 not in chat.early_stop[-3:]
    assert chat.stops == {151643, 151645}
