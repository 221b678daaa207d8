"""`extends: NAME`: a recipe said as what it changes of another one.

The other recipe's short forms are written out first, so that `model: {revision: x}` changes what `model: base` says.
Then, key by key: mappings are merged, lists and scalars replace, and `~` takes away what the other recipe says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import NoneType
from typing import Any, get_args

from posttrain.configs.loading import shape
from posttrain.configs.loading.document import Document, read_document
from posttrain.configs.nodes.strict import Path_
from posttrain.errors import RecipeError

KEY = "extends"
OWN = "name"
"""Never taken from the other recipe: two recipes of one name would share a run folder."""

Find = Callable[[str, Path], Path]
"""The file of a recipe, by the name that `extends` gives it and the folder of the recipe that says so."""


def inherit(document: Document, path: Path, find: Find) -> Document:
    """`document`, read from `path`, with all that it extends; every part of it knows its file and line.

    Raises:
        RecipeError: there is no such recipe, it can't be read, or a chain of them comes back to where it was.
    """
    chain, files = [document], [path.resolve()]
    while KEY in chain[-1].data:
        parent, where = _parent(chain[-1], files[-1].parent, find), chain[-1].where((KEY,))
        if parent.resolve() in files:
            circle = [*files[files.index(parent.resolve()) :], parent]
            what = f"`{KEY}` goes in a circle: {' -> '.join(at.name for at in circle)}"
            fix = f"one of them must stand by itself: take its `{KEY}` out, or name another recipe"
            raise RecipeError(what, where=where, fix=fix)
        read = read_document(parent)
        if not isinstance(read.data, dict):
            raise RecipeError("a recipe is a mapping: `name: ...`, `stages: ...`", where=str(parent))
        chain.append(read)
        files.append(parent.resolve())
    merged = chain.pop()
    while chain:
        merged = merge(merged, chain.pop())
    return merged


def merge(parent: Document, child: Document) -> Document:
    """The child over its parent; both are mappings."""
    data = {key: value for key, value in shape.expand(parent.data).items() if key != OWN}
    places = {at: place for at, place in parent.places.items() if at[:1] != (OWN,)}
    node = dict(child.data)
    node.pop("extends")
    _Merge(places=places, told=child.places).over(data, node, (), data)
    return replace(child, data=data, places={**places, (): child.where(())})


def _parent(document: Document, folder: Path, find: Find) -> Path:
    name, where = document.data[KEY], document.where((KEY,))
    if not isinstance(name, str) or not name:
        raise RecipeError(f"`{KEY}` names one recipe: a packaged name, or a path from this file's folder", where=where)
    try:
        return find(name, folder)
    except RecipeError as error:
        raise RecipeError(f"{KEY}: {name}: {error.what}", where=where, fix=error.fix) from None


class _Merge:
    """Puts one mapping over another in place, and keeps the places of what is left."""

    def __init__(self, *, places: dict[Path_, str], told: dict[Path_, str]) -> None:
        self.places = places
        self.told = told

    def over(self, data: dict[str, Any], own: dict[str, Any], path: Path_, whole: dict[str, Any]) -> None:
        """Merge `own` over `data`, the node at `path` of `whole`."""
        for key, value in own.items():
            at, before = (*path, key), data.get(key)
            if isinstance(value, dict) and isinstance(before, dict) and _same_kind(value, before):
                self._move(at, below=False)
                self.over(before, value, at, whole)
            elif value is None and key in data and not _nullable(at, whole):
                del data[key]
                self._move(at)
            else:
                data[key] = value
                self._move(at)
                if (other := shape.displaced(at, value)) in data and other not in own:
                    del data[other]
                    self._move((*path, other))

    def _move(self, path: Path_, *, below: bool = True) -> None:
        """Take the place of `path` (and of everything below it) from the child from now on."""
        length = len(path)
        if below:
            for at in [at for at in self.places if at[:length] == path]:
                del self.places[at]
        self.places.update(
            {at: told for at, told in self.told.items() if at == path or (below and at[:length] == path)}
        )


def _same_kind(value: dict[str, Any], before: dict[str, Any]) -> bool:
    """Another `kind` is another thing, none of whose fields were meant for this one."""
    return value.get("kind", before.get("kind")) == before.get("kind")


def _nullable(path: Path_, data: dict[str, Any]) -> bool:
    """True where null is a separate value, as in `limit: null`."""
    annotation = shape.type_at(path, data)
    return annotation is Any or NoneType in get_args(annotation)
