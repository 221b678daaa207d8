"""Rewards on structured output: JSON that fits a schema."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Sequence
from typing import Any

from posttrain.rewards.contract import BuiltinReward, Case, RowError, judging_nothing
from posttrain.rewards.programs.code_blocks import last_block

MAX_DEPTH = 64
_MOST = 1_000_000


class NotJson(ValueError):
    """Text that is no JSON as RFC 8259 wants it to be read by all."""


def json_schema(
    prompts: Sequence[Any], completions: Sequence[str], schema: Sequence[Any], **columns: Any
) -> list[float | RowError | None]:
    """1.0 where the answer is JSON that fits the column `schema` (JSON Schema, draft 2020-12; an object or text).

    The answer is all JSON, or its last fenced block is. Names that come twice, NaN, infinite numbers and more than 64
    levels are not JSON here. `format` is a comment, as the draft has it. References out of the schema are never
    fetched: such a row fails, as one whose schema is wrong does. Runs in a worker: a schema's patterns may backtrack
    for ever.
    """
    return [_score(text, wanted) for text, wanted in zip(completions, schema, strict=True)]


def _score(text: str, schema: Any) -> float | RowError | None:
    if schema is None:
        return None
    try:
        validator = _validator(schema if isinstance(schema, str) else json.dumps(schema))
    except (ValueError, TypeError, RecursionError) as error:
        return RowError(f"column `schema`: {error}")
    try:
        value = read_json(text)
    except NotJson:
        return 0.0
    from referencing.exceptions import Unresolvable

    try:
        return float(validator.is_valid(value))
    except Unresolvable as error:
        return RowError(f"column `schema`: a reference can't be followed, and nothing is fetched: {error}")
    except RecursionError:  # the value is shallow: it is the schema that goes round in circles
        return RowError("column `schema`: it refers to itself without end")


@functools.lru_cache(maxsize=512)
def _validator(schema: str) -> Any:
    """Raises ValueError, which says what is wrong with the schema."""
    from jsonschema import Draft202012Validator, SchemaError
    from referencing import Registry

    try:
        found = json.loads(schema)
    except ValueError as error:
        raise ValueError(f"no JSON: {error}") from None
    try:
        Draft202012Validator.check_schema(found)
    except SchemaError as error:
        raise ValueError(f"no JSON Schema: {error.message}") from None
    return Draft202012Validator(found, registry=Registry())  # an empty registry knows no way to fetch anything


def read_json(text: str) -> Any:
    """The JSON that an answer is, or that its last fenced block is. Raises NotJson."""
    block = last_block(text, ("json",))
    return parse_json(block if block is not None else text)


def parse_json(text: str) -> Any:
    """What a text is as JSON, read strictly. Raises NotJson."""
    if len(text) > _MOST:
        raise NotJson(f"longer than {_MOST} characters")
    try:
        value = json.loads(text, object_pairs_hook=_once, parse_constant=_refused, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise NotJson(str(error)) from None
    if _is_deep(value):
        raise NotJson(f"more than {MAX_DEPTH} levels")
    return value


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [inner for outer in level for inner in _inside(outer)]
    return bool(level)


def _inside(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise NotJson("a name comes twice")
    return found


def _refused(constant: str) -> float:
    raise NotJson(f"{constant} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise NotJson(f"{text} is too large")
    return number


_SCHEMA = {
    "type": "object",
    "required": ["name", "age"],
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "additionalProperties": False,
}

REWARDS: dict[str, BuiltinReward] = {
    "json_schema": BuiltinReward(
        function=json_schema,
        columns=("schema",),
        needs="worker",
        check=judging_nothing(json_schema, "schema"),
        doc="JSON that fits the column `schema`",
        gold=Case(completion='```json\n{"name": "Ada", "age": 36}\n```', columns={"schema": _SCHEMA}),
        adversarial=Case(completion='{"name": "Ada", "age": -1, "age": "36"}', columns={"schema": _SCHEMA}),
    )
}
