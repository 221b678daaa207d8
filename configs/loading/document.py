"""Reads one YAML document with the line of every node, and refuses what a recipe never needs.

Safe by construction: plain data only (no tags that build objects), no duplicate keys, and caps on size, depth
and the number of nodes once aliases are expanded, so that a small hostile file can't become a large one.
Scalars follow YAML 1.2: `1e-4` is a number, `no` and `on` are text, a date is text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from posttrain.configs.nodes.strict import Path_
from posttrain.errors import RecipeError

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_NODES = 20_000

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Base):
    """The safe loader with YAML 1.2's scalars."""

    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012  (add_implicit_resolver copies it)


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(?:0|[1-9][0-9_]*)|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)",
        "-+.0123456789",
    ),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+."),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), list(_first))
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])

_scalars = yaml.constructor.SafeConstructor()
_SCALAR_TAGS = {f"tag:yaml.org,2002:{tag}" for tag in ("str", "bool", "int", "float", "null")}


_COLLECTION_TAGS = {"tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"}


@dataclass(frozen=True, kw_only=True)
class Document:
    """Plain data, and the place of each part in the file."""

    data: Any
    text: str
    origin: str
    """What the file is called in errors."""
    places: dict[Path_, str] = field(default_factory=dict)
    """Path of a key or list item -> `file:line`, counted from 1."""

    def where(self, path: Path_) -> str:
        """The place of `path`, or of the nearest node above it that a file writes down."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, f"{self.origin}:1")


def read_document(path: Path) -> Document:
    """Read and parse the file `path`.

    Raises:
        RecipeError: the file is missing, too large, not UTF-8, or not the YAML that a recipe may be.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise RecipeError(f"can't read the recipe: {error.strerror}", where=str(path)) from None
    if len(raw) > MAX_BYTES:
        raise RecipeError(f"a recipe has at most {MAX_BYTES} bytes; this one has {len(raw)}", where=str(path))
    try:
        return parse_document(raw.decode("utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise RecipeError(f"not UTF-8 at byte {error.start}", where=str(path)) from None


def parse_document(text: str, origin: str) -> Document:
    """Parse `text`; `origin` names it in errors. Raises RecipeError."""
    try:
        _check_depth(text, origin)
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{origin}:{mark.line + 1}" if mark else origin
        line = text.splitlines()[mark.line] if mark and mark.line < len(text.splitlines()) else ""
        fix = 'inside {} and [], put quotes around it: "${NAME}"' if "${" in line else None
        raise RecipeError(f"not YAML: {error.problem or error.context}", where=where, fix=fix) from None
    except yaml.YAMLError as error:
        raise RecipeError(f"not YAML: {str(error).splitlines()[0]}", where=origin) from None
    builder = _Builder(origin)
    data = builder.build(node, ()) if node is not None else {}
    places = {path: f"{origin}:{line}" for path, line in builder.lines.items()}
    return Document(data=data, text=text, origin=origin, places=places)


def _check_depth(text: str, origin: str) -> None:
    """The composer recurses in C, where depth would be a crash: count it in the flat event stream first."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                line = event.start_mark.line + 1 if event.start_mark else 1
                raise RecipeError(f"nested deeper than {MAX_DEPTH} levels", where=f"{origin}:{line}")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


class _Builder:
    """Turns composed nodes into plain data, counting every node that aliases expand to."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.lines: dict[Path_, int] = {}
        self.nodes = 0
        self.depth = 0

    def build(self, node: yaml.Node, path: Path_) -> Any:
        self.nodes += 1
        if self.nodes > MAX_NODES or self.depth > MAX_DEPTH:
            raise self._error(node, f"aliases expand to more than {MAX_NODES} nodes or {MAX_DEPTH} levels")
        self.lines.setdefault(path, node.start_mark.line + 1)
        self.depth += 1
        try:
            return self._value(node, path)
        finally:
            self.depth -= 1

    def _value(self, node: yaml.Node, path: Path_) -> Any:
        if not isinstance(node, yaml.ScalarNode) and node.tag not in _COLLECTION_TAGS:
            raise self._error(node, f"the tag {node.tag} isn't allowed; a recipe is plain data")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (*path, index)) for index, item in enumerate(node.value)]
        if node.tag not in _SCALAR_TAGS:
            raise self._error(node, f"the tag {node.tag} isn't allowed; a recipe is plain data")
        try:
            return _scalars.construct_object(node)
        except ValueError as error:  # an explicit tag over text that isn't one: `!!int x`
            raise self._error(node, str(error)) from None

    def _mapping(self, node: yaml.MappingNode, path: Path_) -> dict[str, Any]:
        result: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag.endswith(":merge"):
                for mapping in self._merged(value_node):
                    for key, value in self.build(mapping, path).items():
                        merged.setdefault(key, value)
                continue
            key = self._key(key_node)
            if key in result:
                raise self._error(key_node, f"the key `{key}` appears twice in one mapping")
            self.lines[*path, key] = key_node.start_mark.line + 1
            result[key] = self.build(value_node, (*path, key))
        return {**merged, **result}

    def _merged(self, node: yaml.Node) -> Iterator[yaml.MappingNode]:
        for item in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            if not isinstance(item, yaml.MappingNode):
                raise self._error(item, "`<<` takes a mapping or a list of mappings")
            yield item

    def _key(self, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise self._error(node, "a key is a plain word")
        return str(node.value)

    def _error(self, node: yaml.Node, what: str) -> RecipeError:
        return RecipeError(what, where=f"{self.origin}:{node.start_mark.line + 1}")
