"""Walks the schema along a path of a recipe: which keys and types are valid there, what a short form means.

The schema is the only source: a field added there is known to the error messages and to overrides alike.
"""

from __future__ import annotations

from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from posttrain.configs.nodes.own_kinds import own_kind
from posttrain.configs.schema import (
    Covariance,
    DataSource,
    EnvironmentUse,
    FilterUse,
    Gate,
    JudgeModel,
    ModelSource,
    PromptSource,
    Recipe,
    RewardUse,
    TaskUse,
    TeacherChoice,
    TeacherUse,
    Threshold,
)

SHORT_FORMS: dict[type[BaseModel], str] = {
    ModelSource: "from",
    PromptSource: "from",
    DataSource: "from",
    RewardUse: "use",
    JudgeModel: "from",
    Threshold: "check",
    TaskUse: "use",
    EnvironmentUse: "use",
    FilterUse: "use",
    TeacherUse: "from",
    TeacherChoice: "from",
    Covariance: "kind",
}
"""Nodes that may be one string, and the key which that string fills: `model: base` is `{from: base}`."""


INSTEAD = {"steps": "epochs", "epochs": "steps"}
"""Keys of a stage that exclude each other: one that a child or an override says takes the other's place."""


def displaced(path: tuple[str | int, ...], value: Any) -> str:
    """The key beside the last one of `path` that makes room for `value`, or none.

    >>> displaced(("stages", "cold", "epochs"), 2)
    'steps'
    """
    stage = len(path) == 3 and path[0] == "stages" and value is not None
    return INSTEAD.get(str(path[-1]), "") if stage else ""


def options(annotation: Any, value: Any = None) -> list[Any]:
    """The types that `annotation` allows, without None; a stage's type is decided by `kind` in `value`.

    >>> options(int | None)
    [<class 'int'>]
    """
    if get_origin(annotation) is Annotated:
        return options(get_args(annotation)[0], value)
    if get_origin(annotation) in (Union, UnionType):
        if isinstance(value, dict) and (own := own_kind(value.get("kind"))) is not None:
            return [own]
        found = [o for arg in get_args(annotation) if arg is not type(None) for o in options(arg, value)]
        kind = value.get("kind") if isinstance(value, dict) else None
        chosen = [o for o in found if _is_model(o) and kind in _kinds(o)]
        return chosen or found
    return [annotation]


def below(annotation: Any, key: str | int, value: Any = None) -> Any | None:
    """The type of `key` in a node of type `annotation`; None if there is no such key."""
    for option in options(annotation, value):
        if option is Any:
            return Any
        if _is_model(option) and key in fields(option):
            return fields(option)[str(key)]
        args = get_args(option)
        if get_origin(option) is dict:
            return args[1]
        if get_origin(option) is tuple and isinstance(key, int):
            if args[-1] is Ellipsis:
                return args[0]
            if key < len(args):
                return args[key]
    return None


def fields(model: type[BaseModel]) -> dict[str, Any]:
    """The keys of a node as YAML writes them, with their types."""
    return {field.alias or name: field.annotation for name, field in model.model_fields.items()}


def keys(annotation: Any, value: Any = None) -> list[str]:
    """All valid keys of a node of type `annotation`; none if any key will do."""
    return [key for option in options(annotation, value) if _is_model(option) for key in fields(option)]


def type_at(path: tuple[str | int, ...], data: Any) -> Any | None:
    """The type at `path` of a recipe, given its `data` (which decides the kinds of stages), or None."""
    annotation: Any = Recipe
    for key in path:
        annotation = below(annotation, key, data)
        if annotation is None:
            return None
        data = child(data, key)
    return annotation


def child(data: Any, key: str | int) -> Any:
    """`data[key]`, or None where there is no such thing."""
    if isinstance(data, dict):
        return data.get(key)
    if isinstance(data, list) and isinstance(key, int) and key < len(data):
        return data[key]
    return None


def expand(data: Any, annotation: Any = Recipe) -> Any:
    """`data` with every short form written out, so that a path means the same to the file and to the schema.

    >>> expand({"prompts": "queries"}, Curate)
    {'prompts': [{'from': 'queries'}]}
    """
    candidates = options(annotation, data)
    for option in candidates:
        if isinstance(data, str) and option in SHORT_FORMS:
            return {SHORT_FORMS[option]: data}
        if get_origin(option) is tuple and not isinstance(data, list) and data is not None:
            item = get_args(option)[0]
            if item in SHORT_FORMS or (item is Gate and isinstance(data, dict)):  # one stands for a list of one
                data = [data]
    if isinstance(data, dict):
        return {k: expand(v, t) if (t := below(annotation, k, data)) is not None else v for k, v in data.items()}
    if isinstance(data, list):
        return [expand(v, t) if (t := below(annotation, i, data)) is not None else v for i, v in enumerate(data)]
    return data


def describe(annotation: Any, value: Any = None) -> str:
    """What is allowed there, in words: "a whole number", "one of group, batch, none"."""
    return " or ".join(dict.fromkeys(_describe(option) for option in options(annotation, value)))


def _describe(option: Any) -> str:
    if get_origin(option) is Literal:
        choices = [str(choice) for choice in get_args(option)]
        return choices[0] if len(choices) == 1 else "one of " + ", ".join(choices)
    if get_origin(option) in (tuple, list):
        return "a list"
    if get_origin(option) is dict or _is_model(option):
        return f"{SHORT_FORMS[option]}: TEXT, or just TEXT" if option in SHORT_FORMS else "a mapping"
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    return names.get(option, "a value")


def _is_model(option: Any) -> bool:
    return isinstance(option, type) and issubclass(option, BaseModel)


def _kinds(model: type[BaseModel]) -> tuple[Any, ...]:
    field = model.model_fields.get("kind")
    return get_args(field.annotation) if field else ()
