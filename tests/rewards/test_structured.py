"""JSON output: strictly read, judged by its schema, and bounded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posttrain.configs.schema import RewardUse
from posttrain.errors import DataError, InputError
from posttrain.rewards.base import check_columns, check_use
from posttrain.rewards.contract import RowError
from posttrain.rewards.mixture.mix import Scorer
from posttrain.rewards.rules.lengths import length_target, length_window, overlong
from posttrain.rewards.rules.structured import json_schema
from posttrain.rewards.rules.text import regex
from posttrain.types import Prompt

PERSON: dict[str, Any] = {
    "type": "object",
    "required": ["age"],
    "properties": {"age": {"type": "integer", "minimum": 0}},
    "additionalProperties": False,
}
TREE = {"type": "array", "items": {"$ref": "#"}}


def score(text: str, schema: Any) -> float | RowError | None:
    return json_schema([None], [text], [schema])[0]


@pytest.mark.parametrize(
    "text", ['{"age": 1}', ' {"age": 1}\n', '```json\n{"age": 1}\n```', 'See:\n```\n{"age": 1}\n```\nok']
)
def test_json_that_fits(text: str) -> None:
    assert score(text, PERSON) == score(text, json.dumps(PERSON)) == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no",
        "{}",
        '{"age": true}',
        '{"age": "1"}',
        '{"age": -1}',
        '{"age": 1, "x": 1}',
        '{"age": "x", "age": 1}',
        '{"age": NaN}',
        '{"age": 1e999}',
        '{"age": 1} Enjoy!',
        '```json\n{"age": 1}\n```\n```json\n{}\n```',
        '{"age": ' + "9" * 5000 + "}",
        "[" * 50_000,
        "<think>",
    ],
)
def test_json_that_does_not_fit(text: str) -> None:
    assert score(text, PERSON) == 0.0


@pytest.mark.parametrize(
    ("schema", "value"),
    [({"anyOf": [{"type": "null"}, {"const": 3}]}, "3"), ({"type": "string", "pattern": "^a"}, '"ab"')],
)
def test_all_of_the_draft_is_known(schema: Any, value: str) -> None:
    assert (score(value, schema), score("4", schema)) == (1.0, 0.0)


@pytest.mark.parametrize("text", ["1e999", "-1e999", "NaN", "[Infinity]", '{"a": 1, "a": 1}', "[" * 70 + "]" * 70])
def test_what_others_can_not_read_is_no_json_whatever_the_schema(text: str) -> None:
    assert (score(text, {}), score("1e9", {})) == (0.0, 1.0)


def test_no_schema_is_ever_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[Any] = []
    monkeypatch.setattr("urllib.request.urlopen", lambda request, *_, **__: fetched.append(request))
    assert isinstance(score("1", {"$ref": "http://127.0.0.1:9/schema.json"}), RowError)
    assert fetched == []


def test_deep_answers_end() -> None:
    assert score("[" * 60 + "]" * 60, TREE) == 1.0
    assert score("[" * 70 + "]" * 70, TREE) == 0.0


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "objekt"}, "no JSON Schema"),
        ("{", "no JSON"),
        ({"$ref": "https://example.org/schema.json"}, "nothing is fetched"),
        ({"$ref": "file:///etc/passwd"}, "nothing is fetched"),
        ({"$ref": "#/nowhere"}, "can't be followed"),
        ({"$ref": "#"}, "without end"),
    ],
)
def test_a_schema_that_can_not_be_judged_by_is_no_zero(schema: Any, says: str) -> None:
    value = score("1", schema)
    assert isinstance(value, RowError)
    assert says in value.detail


def test_a_wrong_schema_is_refused_before_a_run() -> None:
    with pytest.raises(DataError, match="no JSON Schema"):
        check_columns([RewardUse(use="json_schema")], [Prompt(id="p", messages=(), columns={"schema": {"type": 3}})])


@pytest.mark.parametrize(
    ("use", "columns"),
    [
        ({"use": "json_schema"}, {"schema": {"type": "string", "pattern": "^(a+)+$"}}),
        ({"use": "regex", "params": {"pattern": '^"(a+)+$'}}, {}),
    ],
)
def test_a_completion_that_makes_a_pattern_backtrack_for_ever_scores_0(
    use: dict[str, Any], columns: dict[str, Any], item: Callable[..., Any], tmp_path: Path
) -> None:
    with Scorer([RewardUse(timeout=1, **use)], recipe_dir=tmp_path) as scorer:
        bad, good = scorer.score([item('"' + "a" * 60 + '!"', **columns), item('"aa"', **columns)])
    assert (bad.value, bad.status) == (0.0, "ok")
    assert "this completion alone can't be judged: no answer within 1 s" in bad.detail
    assert good.status == "ok"


def test_a_pattern_is_found_or_matches_all() -> None:
    assert regex([None] * 2, ["x 12 y", "12"], pattern=r"\d+") == [1.0, 1.0]
    assert regex([None] * 3, ["x 12 y", " 12\n", "12\nx"], pattern=r"\d+", full=True) == [0.0, 1.0, 0.0]
    assert regex([None] * 2, ["1" * 100_000, "1" * 100_001], pattern=r"\d+", full=True) == [1.0, 0.0]


@pytest.mark.parametrize(
    ("name", "params", "says"),
    [
        ("regex", {"pattern": "("}, "no regular expression"),
        ("overlong", {"max_length": 10, "cache": 20}, "`cache` .20. is more"),
        ("overlong", {"max_length": 10, "cache": 0}, "greater than or equal to 1"),
        ("length_window", {"min_words": 9, "max_words": 3}, "nothing can pass"),
        ("instructions", {"mode": "lose"}, "'strict' or 'loose'"),
    ],
)
def test_parameters_that_make_no_sense_are_refused_with_the_recipe(
    name: str, params: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=says):
        check_use(RewardUse(use=name, params=params), tmp_path)


@pytest.mark.parametrize(("tokens", "value"), [(1, 0), (80, 0), (85, -0.25), (90, -0.5), (100, -1), (500, -1)])
def test_overlong_is_dapos_equation_13(tokens: int, value: float) -> None:
    assert overlong([None], [""], [tokens], max_length=100, cache=20) == [pytest.approx(value)]


def test_a_completion_that_was_cut_is_overlong_and_one_of_unknown_length_no_zero() -> None:
    cut, unknown = overlong([None] * 2, [""] * 2, [5, None], ["length", "stop"], max_length=100, cache=20)
    assert cut == -1.0
    assert isinstance(unknown, RowError)


def test_a_window_of_words() -> None:
    assert length_window([None] * 4, ["", "a", "a b c", "a b c d"], min_words=1, max_words=3) == [0, 1, 1, 0]


@pytest.mark.parametrize("target", [0, -3, "ten", True, float("nan")])
def test_a_target_that_is_no_length_is_no_zero(target: Any) -> None:
    assert isinstance(length_target([None], ["a"], [target])[0], RowError)
