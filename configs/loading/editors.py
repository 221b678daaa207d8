"""The JSON schema of recipes, for editors: what pydantic says of the nodes, and what a recipe may write besides.

A node may be a short form (`model: base`), one may stand for a list of one (`prompts: queries`), and a number may be
taken from the environment (`n: ${N}`). A recipe that `extends` another one says any part of it: nothing is required of
its mappings, `~` takes away, and only its lists are whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from posttrain.configs.loading.inheritance import KEY, OWN
from posttrain.configs.loading.shape import SHORT_FORMS
from posttrain.configs.schema import Gate, Recipe

Node = dict[str, Any]

_REF, _DEFS = "$ref", "#/$defs/"
_CHANGE = "Change"
"""Behind a node's name: the same, as a part of what changes another recipe."""

_SHORT = {model.__name__ for model in SHORT_FORMS}
_ALONE = _SHORT | {Gate.__name__}
"""Of these, one stands for a list of one."""

_OTHER_FORMS: dict[str, Node] = {
    "Kl": {"type": "number"},  # its weight
    "EntropyControl": {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2},  # its band
}

_TASKS, _BY_TASKS = "tasks", ("prompts", "rewards")
"""Where there are tasks, the others may be left out."""

_OWN_KIND: Node = {"type": "object", "properties": {"kind": {"pattern": ":"}}, "required": ["kind"]}
"""A stage of a kind of the user's: its fields are known to its class alone."""

_NONE: Node = {"type": "null"}
_ENVIRONMENT: Node = {"type": "string", "pattern": r"^\$\{[^}]*\}$"}


def json_schema() -> Node:
    """A schema of draft 2020-12 that accepts what `load_recipe` reads, up to checks over several fields."""
    plain = Recipe.model_json_schema(by_alias=True)
    nodes = {**plain.pop("$defs"), Recipe.__name__: plain}
    whole = {name: _whole(node) for name, node in nodes.items()}
    change = {f"{name}{_CHANGE}": _change(node) for name, node in whole.items()}
    del whole[Recipe.__name__]["properties"][KEY]
    child = change[f"{Recipe.__name__}{_CHANGE}"]
    child["required"] = [KEY, OWN]
    for stages in (whole[Recipe.__name__]["properties"]["stages"], child["properties"]["stages"]["anyOf"][0]):
        stages["additionalProperties"] = _or(stages["additionalProperties"], _OWN_KIND)
    child["properties"][KEY] = {**child["properties"][KEY], "anyOf": [{"type": "string"}]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "posttrain recipe",
        "if": {"required": [KEY]},
        "then": {_REF: f"{_DEFS}{Recipe.__name__}{_CHANGE}"},
        "else": {_REF: f"{_DEFS}{Recipe.__name__}"},
        "$defs": {**whole, **change},
    }


def _whole(node: Any) -> Any:
    """`node` with the forms that a recipe may write in its place."""
    if isinstance(node, list):
        return [_whole(part) for part in node]
    if not isinstance(node, dict):
        return node
    name, items = node.get(_REF, "").removeprefix(_DEFS), node.get("items", {})
    if name in _SHORT or name in _OTHER_FORMS:
        return _or(node, _OTHER_FORMS.get(name, {"type": "string"}))
    if node.get("type") == "string" if "enum" in node else node.get("type") in ("integer", "number", "boolean"):
        return _or(node, _ENVIRONMENT)
    found = _below(node, _whole)
    if _TASKS in node.get("properties", ()):
        needed = node.get("required", [])
        found["required"] = [key for key in needed if key not in _BY_TASKS]
        found["anyOf"] = [{"required": [_TASKS]}, {"required": [key for key in needed if key in _BY_TASKS]}]
    if isinstance(items, dict) and items.get(_REF, "").removeprefix(_DEFS) in _ALONE:
        return _or(found, found["items"])
    return found


def _change(node: Any) -> Any:
    """`node`, made by `_whole`, where only some of it need be said."""
    if isinstance(node, list):
        return [_change(part) for part in node]
    if not isinstance(node, dict) or "array" in (
        node.get("type"),
        *(part.get("type") for part in node.get("anyOf", ())),
    ):
        return node  # a list replaces the other recipe's, and so does one that stands for it
    if _REF in node:
        return {**node, _REF: node[_REF] + _CHANGE}
    found = {k: v for k, v in _below(node, _change).items() if k not in ("required", "discriminator")}
    if "oneOf" in found:  # without its kind, a stage may be of several
        found["anyOf"] = found.pop("oneOf")
    if "properties" in found:
        found["properties"] = {key: _or(value, _NONE) for key, value in found["properties"].items()}
    if isinstance(found.get("additionalProperties"), dict):
        found["additionalProperties"] = _or(found["additionalProperties"], _NONE)
    return found


def _below(node: Node, turn: Callable[[Any], Any]) -> Node:
    """`turn` over the schemas in `node`, and over nothing that only looks like one."""
    found = dict(node)
    if "properties" in node:
        found["properties"] = {name: turn(value) for name, value in node["properties"].items()}
    for key in ("items", "additionalProperties", "anyOf", "oneOf", "allOf", "prefixItems"):
        if key in node:
            found[key] = turn(node[key])
    return found


def _or(node: Node, *others: Node) -> Node:
    """Any of them; what `node` says of itself (description, default) stays outside."""
    about: Node = {key: node[key] for key in ("title", "description", "default") if key in node}
    return {**about, "anyOf": [{k: v for k, v in node.items() if k not in about}, *others]}
