"""Fusion: whatever is drawn, a conversation's last turn thinks as its flags, its place and its switch say."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.configs.schema import DataSource, Sft
from posttrain.errors import DataError
from posttrain.flags import flag_in_force
from posttrain.stages.data.fusion import Earlier, Example, dialogue, example, targets
from posttrain.stages.data.training_rows import build_sources
from posttrain.stages.models.chat import ChatFormat

from ..stand_ins import Context, write


@pytest.fixture(scope="module")
def chat(tokenizer: Any) -> ChatFormat:
    return ChatFormat(tokenizer)


def source(**fields: Any) -> DataSource:
    return DataSource.model_validate({"from": "x", **fields})


def examples(modes: list[str], seed: int = 0, **fields: Any) -> list[Example]:
    """One row a mode, as `sft` makes it an example."""
    made = []
    for number, mode in enumerate(modes, 1):
        thinking = "" if mode in ("no_think", "closed") else "1+1=2"
        row = {"prompt": f"{number}?", "response": f"<think>\n{thinking}\n</think>\n\n2", "mode": mode}
        made.append(example(row, source(**fields), f"x:{number}", number, seed))
    return made


def agrees(found: Example) -> bool:
    """Whether what is in force asks for what the last turn does."""
    thinks = bool(found.messages[-1]["reasoning_content"])
    if found.closed:
        return not thinks
    return (flag_in_force(found.messages) != "no_think") == thinks


MODES = st.lists(st.sampled_from(["default", "think", "no_think", "closed"]), min_size=1, max_size=12)
SHARES = st.sampled_from([0.0, 0.4, 1.0])


@given(MODES, st.integers(0, 2**32 - 1), SHARES, SHARES, SHARES)
def test_what_is_in_force_agrees_with_the_target_in_every_row_and_dialogue(
    modes: list[str], seed: int, unflagged: float, in_system: float, hard: float
) -> None:
    plain = examples(modes, seed, flag="mixed", unflagged=unflagged, in_system=in_system, hard_switch=hard)
    assert all(agrees(found) for found in plain)
    earlier, rng = Earlier([plain], [1.0]), np.random.default_rng(seed)
    for found in plain if earlier.pools else ():
        joined = dialogue(found, earlier, rng)
        assert agrees(joined)
        assert len(joined.messages) == len(found.messages) + joined.history > len(found.messages)
        assert joined.messages[-1] == found.messages[-1]
        assert [m["role"] for m in joined.messages].count("system") == (found.messages[0]["role"] == "system")


def test_some_dialogues_end_in_a_turn_that_inherits_its_mode() -> None:
    plain = examples(["no_think"] * 20, flag="/no_think")
    rng = np.random.default_rng(0)
    last = [dialogue(found, Earlier([plain], [1.0]), rng).messages[-2]["content"] for found in plain]
    assert 5 < sum("/no_think" not in content for content in last) < 15


def test_histories_are_drawn_by_the_weights_of_their_sources() -> None:
    few, many = examples(["think"] * 2, flag="/think"), examples(["no_think"] * 98, flag="/no_think")
    drawn = Earlier([few, many, []], [3.0, 1.0, 1.0]).draw(1000, np.random.default_rng(0))
    assert 700 < sum(c in [e.messages for e in few] for c in drawn) < 800


def test_flags_inside_a_conversation_stay_where_they_are() -> None:
    turns = [{"role": "user", "content": "a /think"}, {"role": "assistant", "content": "b"}]
    answer = {"role": "assistant", "reasoning_content": "", "content": "d"}
    own = Example(where="x:1", messages=[*turns, {"role": "user", "content": "c /no_think"}, answer])
    earlier = Earlier([examples(["no_think"], flag="/no_think")], [1.0])
    rng = np.random.default_rng(0)
    for _ in range(20):
        assert dialogue(own, earlier, rng).messages[-2]["content"] == "c /no_think"


def test_a_third_of_the_thinking_rows_has_no_flag() -> None:
    flags = [flag_in_force(found.messages) for found in examples(["default"] * 9, flag="mixed")]
    assert Counter(flags) == {"think": 6, None: 3}


@pytest.mark.parametrize(("share", "without"), [(0.0, 0), (0.25, 10), (0.1, 4), (1.0, 40)])
def test_as_many_thinking_rows_as_told_have_no_flag(share: float, without: int) -> None:
    rows = examples(["default"] * 40, flag="mixed", unflagged=share)
    assert sum(flag_in_force(found.messages) is None for found in rows) == without


def test_a_share_of_the_flags_stands_in_the_system_message_and_there_alone() -> None:
    rows = examples(["no_think", "think"] * 200, flag="mixed", unflagged=0.0, in_system=0.3)
    moved = [found for found in rows if found.messages[0]["role"] == "system"]
    assert 90 < len(moved) < 150
    assert all("/" not in found.messages[1]["content"] for found in moved)
    assert {found.messages[0]["content"] for found in moved} == {"/think", "/no_think"}


def test_a_share_of_the_rows_without_thinking_is_asked_with_the_hard_switch_whatever_their_flag() -> None:
    rows = examples(["no_think", "think"] * 300, flag="mixed", hard_switch=0.4)
    hard = [found for found in rows if found.closed]
    assert 90 < len(hard) < 150
    assert not any(found.messages[-1]["reasoning_content"] for found in hard)
    flags = Counter(flag_in_force(found.messages) for found in hard)
    assert set(flags) == {None, "think", "no_think"}
    assert min(flags.values()) > 20


def test_a_row_that_was_answered_with_the_hard_switch_is_trained_with_it() -> None:
    (found,) = examples(["closed"], flag="mixed")
    assert found.closed
    assert flag_in_force(found.messages) is None


def test_a_row_is_made_the_same_wherever_it_is_read() -> None:
    fields: dict[str, Any] = {"flag": "mixed", "in_system": 0.5, "hard_switch": 0.5}
    whole = examples(["no_think"] * 30, seed=4, **fields)
    assert examples(["no_think"] * 10, seed=4, **fields) == whole[:10]
    assert examples(["no_think"] * 30, seed=5, **fields) != whole


@pytest.mark.parametrize("flag", ["/think", "/no_think"])
def test_a_source_with_a_flag_puts_it_on_every_row(flag: str) -> None:
    assert {found.messages[0]["content"].split()[-1] for found in examples(["default"] * 5, flag=flag)} == {flag}


def test_a_dialogue_that_has_flags_keeps_them_in_a_mixed_source() -> None:
    turns = [{"role": "user", "content": "a /think"}, {"role": "assistant", "content": "b"}]
    row = {"messages": [*turns, {"role": "user", "content": "c /no_think"}], "response": "<think>\n\n</think>\n\nd"}
    made = [example(row, source(flag="mixed", hard_switch=1.0, in_system=1.0), "x:1", n) for n in (1, 2, 3)]
    assert [found.messages[2]["content"] for found in made] == ["c /no_think"] * 3
    assert not any(found.closed for found in made)


def test_a_response_is_split_into_thinking_and_answer() -> None:
    (found,) = examples(["default"])
    assert found.messages[-1] == {"role": "assistant", "reasoning_content": "1+1=2", "content": "2"}


def test_thinking_written_into_an_assistants_text_is_its_think_block() -> None:
    turns = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "<think>\n2+2=4\n</think>\n\n4"}]
    made = example({"messages": turns}, source(), "x:1", 1)
    assert made.messages[-1] == {"role": "assistant", "reasoning_content": "2+2=4", "content": "4"}
    assert turns[-1]["content"].startswith("<think>")


def test_a_row_without_an_answer_is_refused_with_its_place() -> None:
    with pytest.raises(DataError, match=r"^x:7: .*response"):
        example({"prompt": "1?"}, source(), "x:7", 7)


# ---------------------------------------------------------------- one sample an assistant turn


def turns(*said: tuple[str, str, str]) -> list[dict[str, Any]]:
    return [
        {"role": role, "content": text, **({"reasoning_content": thought} if role == "assistant" else {})}
        for role, text, thought in said
    ]


def test_each_assistant_turn_is_a_target_in_the_history_that_it_had() -> None:
    messages = turns(
        ("user", "a", ""), ("assistant", "b", "tb"), ("user", "c /no_think", ""), ("assistant", "d", ""),
        ("user", "e", ""), ("assistant", "f", ""),
    )  # fmt: skip
    learned, left = targets(Example(where="x", messages=messages), "each")
    assert [len(conversation) for conversation in learned] == [2, 4, 6]
    assert left == 0


def test_an_earlier_turn_that_lost_its_thinking_is_no_target_and_counted() -> None:
    messages = turns(("user", "a", ""), ("assistant", "b", ""), ("user", "c", ""), ("assistant", "d", "td"))
    learned, left = targets(Example(where="x", messages=messages), "each")
    assert [conversation[-1]["content"] for conversation in learned] == ["d"]
    assert left == 1


def test_turns_of_other_rows_are_no_targets() -> None:
    plain = examples(["think"] * 4, flag="/think", in_system=1.0)
    short = examples(["no_think"] * 3, flag="/no_think")
    joined = dialogue(plain[0], Earlier([short], [1.0]), np.random.default_rng(1))
    learned, _ = targets(joined, "each")
    assert [conversation[-1] for conversation in learned] == [plain[0].messages[-1]]


def built(folder: Path, chat: ChatFormat, rows: list[dict[str, Any]], **fields: Any) -> tuple[list[Any], Context]:
    write(folder / "rows.jsonl", rows)
    data = {"from": "rows.jsonl", **fields.pop("data", {})}
    spec = Sft.model_validate({"kind": "sft", "model": "base", "data": data, **fields})
    context = Context(folder, "fusion", spec, seed=1)
    return build_sources(context, chat, spec)[0], context


def test_samples_of_one_row_share_no_target_and_cover_each_turn(tmp_path: Path, chat: ChatFormat) -> None:
    messages = turns(("user", "a", ""), ("assistant", "b", "tb"), ("user", "c", ""), ("assistant", "d", "td"))
    samples, _ = built(tmp_path, chat, [{"messages": messages}], turns="each")
    said = [chat.tokenizer.decode(s.ids[s.loss_mask > 0]) for s in samples]
    assert said == ["<think>\ntb\n</think>\n\nb<|im_end|>", "<think>\ntd\n</think>\n\nd<|im_end|>"]
    assert "tb" not in chat.tokenizer.decode(samples[1].ids)


@pytest.mark.parametrize("mode", ["last", "each", "all"])
def test_the_empty_block_is_prompt_with_the_hard_switch_and_target_with_the_soft_one(
    tmp_path: Path, chat: ChatFormat, mode: str
) -> None:
    row = {"prompt": "1?", "response": "2", "mode": "no_think"}
    soft, _ = built(tmp_path, chat, [row], turns=mode, data={"flag": "mixed"})
    hard, _ = built(tmp_path, chat, [row], turns=mode, data={"flag": "mixed", "hard_switch": 1.0})
    said = [chat.tokenizer.decode(s.ids[s.loss_mask > 0]) for s in (*soft, *hard)]
    assert said == ["<think>\n\n</think>\n\n2<|im_end|>", "2<|im_end|>"]
    assert chat.tokenizer.decode(hard[0].ids).count("<think>\n\n</think>\n\n") == 1


# ---------------------------------------------------------------- rows that are too long


LONG = {"prompt": "1? " * 200, "response": "2"}
SHORT = {"prompt": "1?", "response": "2"}


def test_a_row_that_is_too_long_is_refused_with_its_file_and_line(tmp_path: Path, chat: ChatFormat) -> None:
    with pytest.raises(DataError, match=r"rows\.jsonl:3: \d+ tokens, more than max_length=64\n.*cut the row"):
        built(tmp_path, chat, [SHORT, SHORT, LONG], max_length=64)


def test_rows_that_are_too_long_are_skipped_and_counted_where_the_recipe_says_so(
    tmp_path: Path, chat: ChatFormat
) -> None:
    data = {"on_bad_row": "skip", "max_bad_share": 0.5}
    samples, context = built(tmp_path, chat, [SHORT, LONG, SHORT], max_length=64, data=data)
    assert len(samples) == 2
    assert any("skipped 1 malformed or too long rows" in line and "rows.jsonl:2" in line for line in context.said)


def test_more_long_rows_than_the_cap_are_an_error(tmp_path: Path, chat: ChatFormat) -> None:
    data = {"on_bad_row": "skip", "max_bad_share": 0.5}
    with pytest.raises(DataError, match=r"2 of 3 rows .* too long, more than max_bad_share=0.5"):
        built(tmp_path, chat, [SHORT, LONG, LONG], max_length=64, data=data)


def test_a_few_long_rows_of_another_stage_are_skipped_since_nobody_can_mend_them(
    tmp_path: Path, chat: ChatFormat
) -> None:
    from posttrain.stages.data.store import write_rows

    (tmp_path / "made").mkdir()
    write_rows(tmp_path / "made", [SHORT] * 199 + [LONG])
    spec = Sft.model_validate({"kind": "sft", "model": "base", "data": "made", "max_length": 64})
    context = Context(tmp_path, "fusion", spec, seed=1)
    context.inputs = {"made": tmp_path / "made"}
    assert len(build_sources(context, chat, spec)[0]) == 199


def test_a_history_that_makes_a_row_too_long_is_left_out(tmp_path: Path, chat: ChatFormat) -> None:
    rows = [{"prompt": "1? " * 8, "response": "2 " * 8}] * 20
    samples, _ = built(tmp_path, chat, rows, max_length=80, multi_turn=1.0)
    assert len(samples) == 20
    assert all(s.tokens <= 80 for s in samples)
