"""Flags: what switches the mode, and what only speaks of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.flags import flag_in_force, flagged, last_flag, with_flag, with_system_flag, without_flag

QUOTED = {
    "in double quotes": 'What does "/no_think" do?',
    "a quoted sentence that ends with it": 'My colleague wrote "please answer at once /no_think" and left.',
    "a quotation over lines": 'The mail said "Dear all,\n/no_think\nBest" and nothing else. Why?',
    "in single quotes": "Why do people write '/no_think'?",
    "in curly quotes": "Explain “use it /no_think ” to me.",
    "in guillemets": "Que veut dire « ajoutez /no_think » ?",
    "in German quotation marks": "Was heißt „\n/no_think\n“?",
    "in backticks": "What does `/no_think` do?",
    "in double backticks with spaces": "Explain ``\n/no_think\n``.",
    "in a fence": "What does this print?\n```python\nprint(2)  # comment\n/no_think\n```",
    "in a fence of tildes": "~~~\n/no_think\n~~~\nWhat is this?",
    "in a fence that is longer than one inside": "````\n```\n/no_think\n```\n````\nWhat is this?",
    "in a fence that never ends": "Go on with this:\n```\nask('2+2?')\n/no_think",
    "in a block quotation": "> 2+2? /no_think\n\nWho said that?",
    "in a nested block quotation": "> > /no_think\nWho said that?",
    "in indented code": "Here is the log:\n\n    user: hi\n    /no_think\n\nWhat went wrong?",
    "in code tags": "What is <code>\n/no_think\n</code>?",
    "in a list of flags": "The flags are:\n- /think\n- /no_think\n1. /no_think\nWhich is better?",
    "in triple quotes": 'What does this hold?\n"""\n2+2? /no_think\n"""',
    "in a cell of a table": "| flag | meaning |\n| /no_think | off |",
    "in JSON": '{"role": "user", "content": "2+2? /no_think"}',
    "in the middle of a line": "Does the /no_think switch work with vLLM?",
    "part of a path": "Delete /tmp/think and /var/no_think",
    "part of a word": "a/think b/no_think",
    "in other letters": "/Think /NO_THINK",
    "with a mark behind it": "Is it /no_think?",
    "in what a tool said": "<tool_response>\n/no_think\n</tool_response>",
}

SWITCHES = {
    "behind the query": "2+2? /no_think",
    "before the query": "/no_think 2+2?",
    "on a line of its own": "2+2?\n/no_think\n",
    "at the end of a line": "2+2? /no_think\nAnswer in one word.",
    "behind a closed fence": "```\nx = 2\n```\nWhat is x? /no_think",
    "appended to a fence's end": "What is x?\n```\nx = 2\n``` /no_think",
    "behind a quotation": 'Who said "cogito"? /no_think',
    "appended to a quotation": 'Translate "je pense" /no_think',
    "behind a block quotation": "> I think.\nWho said that? /no_think",
    "behind an inch mark": 'A 5" pipe or a 6" one? /no_think',
    "behind an open quotation mark": 'Finish: "To be or /no_think',
    "behind an open backtick": "What does ` mean? /no_think",
    "behind backticks of another paragraph": "One ` here.\n\n2+2? /no_think\n\nAnd ` there.",
    "in a text that is indented as a whole": "\n    2+2?\n\n    /no_think\n",
    "at the end of a list": "- Be brief.\n- Answer in French. /no_think",
    "behind Windows line ends": "2+2?\r\n/no_think\r\n",
    "behind a flag that is quoted": "What does `/think` do? /no_think",
}


@pytest.mark.parametrize("text", QUOTED.values(), ids=QUOTED)
def test_a_flag_that_is_spoken_of_switches_nothing(text: str) -> None:
    assert last_flag([text]) is None


@pytest.mark.parametrize("text", QUOTED.values(), ids=QUOTED)
def test_a_flag_that_is_spoken_of_leaves_the_one_before_in_force(text: str) -> None:
    assert last_flag(["2+2? /think", text]) == "think"


@pytest.mark.parametrize("text", SWITCHES.values(), ids=SWITCHES)
def test_a_flag_where_the_report_puts_it_switches(text: str) -> None:
    assert last_flag([text]) == "no_think"


@pytest.mark.parametrize("text", [*QUOTED.values(), *SWITCHES.values()], ids=[*QUOTED, *SWITCHES])
@pytest.mark.parametrize("flag", ["/think", "/no_think"])
def test_a_flag_that_is_appended_counts_whatever_the_query_ends_with(text: str, flag: str) -> None:
    assert last_flag([flagged(text, flag)]) == flag[1:]
    assert text in flagged(text, flag)


def test_a_flag_stands_after_a_space_where_it_can() -> None:
    assert flagged("2+2?", "/think") == "2+2? /think"


@given(st.lists(st.sampled_from(["`", "```", '"', "> ", "\n", "\n\n", "    ", "~~~", "“", "”", "x", " ", "<code>"])))
def test_appending_a_flag_is_undone_by_taking_it_away_unless_it_stands_in_front(pieces: list[str]) -> None:
    text = "".join(pieces)
    turn = [{"role": "user", "content": text}]
    (set_,) = with_flag(turn, "/no_think")
    assert last_flag([set_["content"]]) == "no_think"
    if not set_["content"].startswith("/no_think\n"):
        assert list(without_flag([set_], "/no_think")) == turn


@pytest.mark.parametrize(
    ("messages", "mode"),
    [
        ([("system", "Be brief. /no_think"), ("user", "2+2?")], "no_think"),
        ([("system", "/no_think"), ("user", "2+2? /think"), ("assistant", "4"), ("user", "3+3?")], "think"),
        ([("user", "2+2? /think"), ("assistant", "4 /no_think"), ("user", "3+3?")], "think"),
        ([("user", "a /think"), ("assistant", ""), ("tool", "/no_think"), ("user", "b")], "think"),
        ([("user", "2+2?")], None),
    ],
)
def test_users_and_the_system_switch_and_nobody_else(messages: Any, mode: str | None) -> None:
    assert flag_in_force([{"role": role, "content": content} for role, content in messages]) == mode


def test_the_system_message_takes_a_flag_whether_there_is_one_or_not() -> None:
    user = {"role": "user", "content": "2+2?"}
    assert with_system_flag([user], "/no_think") == ({"role": "system", "content": "/no_think"}, user)
    (system, _) = with_system_flag([{"role": "system", "content": "Be brief."}, user], "/no_think")
    assert system["content"] == "Be brief. /no_think"
