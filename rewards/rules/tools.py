"""Tool calls in Qwen3's form, judged as the Berkeley Function-Calling Leaderboard judges them (BFCL; Patil et al. 2025,
"The Berkeley Function Calling Leaderboard", AST evaluation)."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from posttrain.rewards.contract import BuiltinReward, Case, RowError, judging_nothing
from posttrain.rewards.rules.structured import NotJson, parse_json
from posttrain.thinking import is_blank

OPEN, CLOSE = "<tool_call>", "</tool_call>"
MAX_CALLS = 64
_IGNORED = re.compile(r"[ ,./\-_*^]")
_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,), "integer": (int,), "number": (int, float), "float": (int, float), "boolean": (bool,),
    "array": (list,), "tuple": (list,), "object": (dict,), "dict": (dict,), "null": (type(None),),
}  # fmt: skip


@dataclass(frozen=True)
class Call:
    """A call of a function.

    >>> Call(name="weather", arguments={"city": "Paris"})
    """

    name: str
    arguments: Mapping[str, Any]
    """Values; of an expected call, the list of values that each argument may have."""


def tool_call(
    prompts: Sequence[Any],
    completions: Sequence[str],
    expected_calls: Sequence[Any],
    tools: Sequence[Any] | None = None,
    *,
    credit: Literal["all", "fraction"] = "all",
    **columns: Any,
) -> list[float | RowError | None]:
    """1.0 where the answer calls exactly the functions of the column `expected_calls`, in any order, else 0.0.

    A call is `<tool_call>`, a JSON object with `name` and `arguments`, `</tool_call>`. `expected_calls` is a list of
    `{"f": {"argument": [allowed values]}}` as in BFCL, or of `{"name": "f", "arguments": {...}}`; "" among the values
    means that the argument may be left out. An empty list means that nothing may be called, and something must be
    said. Text is compared without case, blanks and `,./-_*^`; a whole number stands for a float, not the reverse.
    The column `tools` (JSON schemas of functions) adds the types of arguments.

    `credit: fraction` pays half for the right functions and half for the right calls, each as the F1 over calls; where
    a call is malformed, nothing: form alone never pays.
    """
    rows = zip(completions, expected_calls, tools or [None] * len(completions), strict=True)
    return [_score(text, wanted, known, credit) for text, wanted, known in rows]


def _score(text: str, wanted: Any, known: Any, credit: str) -> float | RowError | None:
    if wanted is None:
        return None
    try:
        types = read_tools(known)
        expected = read_expected(wanted, types)
    except ValueError as error:
        return RowError(str(error))
    calls = read_calls(text)
    if calls is None:
        return 0.0
    if not expected:
        return float(not calls and not is_blank(text))
    right = _matched(calls, expected, types or {})
    if credit == "all":
        return float(right == len(calls) == len(expected))
    named = (Counter(c.name for c in calls) & Counter(c.name for c in expected)).total()
    return (named + right) / (len(calls) + len(expected))


def read_calls(text: str) -> list[Call] | None:
    """The calls of an answer; None where one is malformed."""
    calls: list[Call] = []
    head, *rest = text.split(OPEN)
    if CLOSE in head or len(rest) > MAX_CALLS:
        return None
    for piece in rest:
        body, closed, behind = piece.partition(CLOSE)
        try:
            value = parse_json(body)
        except NotJson:
            return None
        if not closed or CLOSE in behind or not isinstance(value, dict) or set(value) != {"name", "arguments"}:
            return None
        if not isinstance(value["name"], str) or not isinstance(value["arguments"], dict):
            return None
        calls.append(Call(value["name"], value["arguments"]))
    return calls


def read_tools(tools: Any) -> dict[str, dict[str, str]] | None:
    """Function to argument to type; None without tools. Raises ValueError."""
    if tools is None:
        return None
    found: dict[str, dict[str, str]] = {}
    for tool in _listed(tools, "tools"):
        function = tool.get("function", tool) if isinstance(tool, Mapping) else None
        parameters = function.get("parameters") or {} if isinstance(function, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise ValueError("column `tools`: each should be a function with `name` and `parameters`")
        properties = parameters.get("properties") or {} if isinstance(parameters, Mapping) else None
        if not isinstance(properties, Mapping):
            raise ValueError(f"column `tools`: the parameters of {function['name']!r} should be a JSON Schema")
        known = {name: spec for name, spec in properties.items() if isinstance(spec, Mapping)}
        found[function["name"]] = {name: str(spec.get("type", "any")) for name, spec in known.items()}
    return found


def read_expected(wanted: Any, types: Mapping[str, Any] | None) -> list[Call]:
    """The calls that a row expects. Raises ValueError."""
    calls = [_expected(call) for call in _listed(wanted, "expected_calls")]
    for call in calls:
        if types is not None and call.name not in types:
            raise ValueError(f"column `expected_calls`: {call.name!r} is none of the row's `tools`")
    return calls


def _expected(call: Any) -> Call:
    # A table of mixed rows has the fields of all of them in each, None where a row has none.
    call = {k: v for k, v in call.items() if v is not None} if isinstance(call, Mapping) else call
    if isinstance(call, Mapping) and set(call) == {"name", "arguments"} and isinstance(call["name"], str):
        name, arguments = call["name"], call["arguments"]
    elif isinstance(call, Mapping) and len(call) == 1:
        name, arguments = next(iter(call.items()))
    else:
        raise ValueError('column `expected_calls`: each should be {"function": {"argument": [allowed values]}}')
    arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
    given = {k: v for k, v in arguments.items() if v is not None} if isinstance(arguments, Mapping) else None
    if given is None or not all(isinstance(values, list) and values for values in given.values()):
        raise ValueError(f"column `expected_calls`: each argument of {name!r} needs a list of allowed values")
    return Call(str(name), given)


def _listed(value: Any, column: str) -> list[Any]:
    try:
        value = json.loads(value) if isinstance(value, str) else value
    except ValueError as error:
        raise ValueError(f"column `{column}`: no JSON: {error}") from None
    if isinstance(value, Mapping) or not hasattr(value, "__iter__"):
        raise ValueError(f"column `{column}` should be a list")
    return list(value)


def _matched(calls: Sequence[Call], expected: Sequence[Call], types: Mapping[str, Mapping[str, str]]) -> int:
    """How many expected calls were made, each by a call of its own: a largest matching (Kuhn)."""
    fits = [[_fits(call, wanted, types.get(wanted.name, {})) for call in calls] for wanted in expected]
    taken: dict[int, int] = {}

    def place(wanted: int, seen: set[int]) -> bool:
        for call in range(len(calls)):
            if fits[wanted][call] and call not in seen:
                seen.add(call)
                if call not in taken or place(taken[call], seen):
                    taken[call] = wanted
                    return True
        return False

    return sum(place(wanted, set()) for wanted in range(len(expected)))


def _fits(call: Call, wanted: Call, types: Mapping[str, str]) -> bool:
    if call.name != wanted.name or set(call.arguments) - set(wanted.arguments):
        return False
    for name, allowed in wanted.arguments.items():
        if name not in call.arguments:
            if "" not in allowed:
                return False
            continue
        value, kind = call.arguments[name], types.get(name, "any")
        if kind in ("number", "float"):  # there, 5 and 5.0 are one value
            allowed = [float(option) if _is_number(option) else option for option in allowed]
        if not _has_type(value, kind) or not any(same(value, option) for option in allowed):
            return False
    return True


def _has_type(value: Any, kind: str) -> bool:
    kinds = _TYPES.get(kind)
    return kinds is None or (isinstance(value, kinds) and (not isinstance(value, bool) or bool in kinds))


def same(value: Any, allowed: Any) -> bool:
    """Whether an argument has an allowed value, with BFCL's leniency.

    Of an object, each field may have a list of allowed values, as arguments have; "" there, that it may be absent.
    """
    if isinstance(value, str) and isinstance(allowed, str):
        return _plain(value) == _plain(allowed)
    if isinstance(value, list) and isinstance(allowed, list | tuple):
        return len(value) == len(allowed) and all(map(same, value, allowed))
    if isinstance(value, dict) and isinstance(allowed, Mapping):
        fields = {name: v if isinstance(v, list) else [v] for name, v in allowed.items()}
        return _fits(Call("", value), Call("", fields), {})
    if _is_number(value) and _is_number(allowed):
        return value == allowed and (isinstance(value, int) or isinstance(allowed, float))
    return value is allowed  # true, false and null


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _plain(text: str) -> str:
    return _IGNORED.sub("", text).lower().replace("'", '"')


_WEATHER = {
    "tools": [
        {
            "type": "function",
            "function": {
                "name": "weather",
                "parameters": {
                    "type": "object",
                    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
                },
            },
        }
    ],
    "expected_calls": [{"weather": {"city": ["Paris", "Paris, France"], "days": [3]}}],
}

REWARDS: dict[str, BuiltinReward] = {
    "tool_call": BuiltinReward(
        function=tool_call,
        columns=("expected_calls",),
        optional=("tools",),
        check=judging_nothing(tool_call, "expected_calls", "tools"),
        doc="calls the functions of the column `expected_calls`, in any order, and no others",
        gold=Case(
            completion='<tool_call>\n{"name": "weather", "arguments": {"city": "paris", "days": 3}}\n</tool_call>',
            columns=_WEATHER,
        ),
        adversarial=Case(
            completion="".join(
                f'<tool_call>\n{{"name": "weather", "arguments": {{"city": "Paris", "days": {n}}}}}\n</tool_call>\n'
                for n in range(1, 6)
            ),
            columns=_WEATHER,
        ),
    )
}
