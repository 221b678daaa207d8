"""Tool calls: the right functions with the right arguments, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from posttrain.errors import DataError
from posttrain.rewards.contract import RowError
from posttrain.rewards.rules.tools import tool_call


def call(name: str, **arguments: Any) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def score(text: str, expected: Any, tools: Any = None, **params: Any) -> float | RowError | None:
    return tool_call([None], [text], [expected], [tools], **params)[0]


def tool(name: str, **types: str) -> dict[str, Any]:
    properties = {argument: {"type": kind} for argument, kind in types.items()}
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": properties}}}


PARIS = [{"weather": {"city": ["Paris", "Paris, France"], "unit": ["celsius", ""]}}]


@pytest.mark.parametrize(
    "text",
    [
        call("weather", city="Paris"),
        call("weather", city="paris france", unit="Celsius"),
        "I'll look.\n" + call("weather", city="Paris"),
        '<tool_call>{"arguments": {"city": "Paris"}, "name": "weather"}</tool_call>',
    ],
)
@pytest.mark.parametrize("tools", [None, [tool("weather", city="string", unit="string")]])
def test_a_right_call(text: str, tools: Any) -> None:
    assert score(text, PARIS, tools) == 1.0
    assert score(text, json.dumps(PARIS), json.dumps(tools) if tools else None) == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I would call weather(city='Paris').",
        json.dumps({"name": "weather", "arguments": {"city": "Paris"}}),
        call("weather"),
        call("Weather", city="Paris"),
        call("weather", city="Rome"),
        call("weather", city="Paris", unit="kelvin"),
        call("weather", city="Paris", days=3),
        call("weather", city=["Paris"]),
        call("weather", city="Paris") * 2,
        call("weather", city="Paris") + call("weather", city="Rome"),
        call("weather", city="Paris").replace("</tool_call>", ""),
        call("weather", city="Paris") + "</tool_call>",
        "</tool_call>" + call("weather", city="Paris"),
        call("weather", city="Paris").replace("}\n", ', "id": 1}\n'),
        '<tool_call>{"name": "weather", "arguments": {"city": "Rome", "city": "Paris"}}</tool_call>',
        '<tool_call>{"name": "weather", "arguments": "{\\"city\\": \\"Paris\\"}"}</tool_call>',
        f"<tool_call>[{json.dumps({'name': 'weather', 'arguments': {'city': 'Paris'}})}]</tool_call>",
    ],
)
def test_a_wrong_call(text: str) -> None:
    assert score(text, PARIS) == 0.0


def test_parallel_calls_come_in_any_order_and_each_counts_once() -> None:
    expected = [{"add": {"a": [1, 2]}}, {"add": {"a": [1]}}, {"now": {}}]
    one, two, now = call("add", a=1), call("add", a=2), call("now")
    assert score(now + one + two, expected) == score(two + now + one, expected) == 1.0
    assert score(one + one + now, expected) == 1.0
    assert score(two + two + now, expected) == 0.0
    assert score(one + two, expected) == 0.0


def test_nothing_may_be_called_where_nothing_is_expected() -> None:
    assert score("I can't do that.", []) == 1.0
    assert score(call("weather", city="Paris"), []) == 0.0
    assert score("<tool_call>", []) == score("", []) == 0.0


@pytest.mark.parametrize(
    ("value", "allowed", "right"),
    [
        (5, 5.0, True), (5.0, 5, False), (True, 1, False), (1, True, False), ("5", 5, False), (None, None, True),
        ("New-York", "new york", True), ([1, 2], [1, 2], True), ([2, 1], [1, 2], False), ([1], [1, 2], False),
        ({"x": 1}, {"x": [1, 2]}, True), ({"x": 3}, {"x": [1, 2]}, False), ({}, {"x": [1, ""]}, True),
        ({"x": 1, "y": 1}, {"x": [1]}, False), ([{"x": "A"}], [{"x": ["a"]}], True),
    ],
)  # fmt: skip
def test_values_are_compared_as_bfcl_compares_them(value: Any, allowed: Any, right: bool) -> None:
    assert score(call("f", v=value), [{"f": {"v": [allowed]}}]) == float(right)


def test_the_tools_types_are_held() -> None:
    assert score(call("f", v=5.0), [{"f": {"v": [5]}}], [tool("f", v="number")]) == 1.0
    assert score(call("f", v="5"), [{"f": {"v": [5, "5"]}}], [tool("f", v="integer")]) == 0.0
    assert score(call("f", v=True), [{"f": {"v": [True]}}], [tool("f", v="integer")]) == 0.0


def test_a_fraction_pays_functions_and_calls_but_never_form() -> None:
    expected = [{"f": {"v": [1]}}, {"g": {}}]
    assert score(call("f", v=1) + call("g"), expected, credit="fraction") == 1.0
    assert score(call("f", v=2) + call("g"), expected, credit="fraction") == 0.75
    assert score(call("f", v=1), expected, credit="fraction") == pytest.approx(2 / 3)
    assert score(call("h"), expected, credit="fraction") == 0.0
    assert score(call("f", v=1) + "<tool_call>", expected, credit="fraction") == 0.0
    assert score(call("f", v=1) * 20, expected, credit="fraction") == pytest.approx(2 / 22)


@pytest.mark.parametrize(
    ("expected", "tools", "says"),
    [
        ("{", None, "no JSON"),
        ({"f": {}}, None, "should be a list"),
        ([{"f": {"a": 1}}], None, "list of allowed values"),
        ([{"f": {}, "g": {}}], None, "each should be"),
        ([{"f": {}}], [tool("g")], "none of the row's `tools`"),
        ([], [{"name": 3}], "`name` and `parameters`"),
    ],
)
def test_a_malformed_row_is_no_zero_and_refused_before_a_run(expected: Any, tools: Any, says: str) -> None:
    from posttrain.configs.schema import RewardUse
    from posttrain.rewards.base import check_columns
    from posttrain.types import Prompt

    value = score("text", expected, tools)
    assert isinstance(value, RowError)
    row = Prompt(id="p", messages=(), columns={"expected_calls": expected, "tools": tools})
    with pytest.raises(DataError, match=says):
        check_columns([RewardUse(use="tool_call")], [row])


def test_a_table_with_gaps_is_read() -> None:
    expected = [{"f": {"a": [1], "b": None}, "g": None}, {"f": None, "g": {}}]
    assert score(call("f", a=1) + call("g"), expected) == 1.0
