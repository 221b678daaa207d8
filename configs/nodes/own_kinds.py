"""Kinds of stage that a user brings: `kind: my_stage.py:Distill2`, a file from the recipe's folder and a class in it.

The class is a `StageBase` with fields and a `declare`; its module has `run(context)`, as those of the
packaged kinds have. The code is imported when the recipe is loaded: its fields are checked like any others.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import Any, TypeGuard

from posttrain.configs.nodes.stage import StageBase
from posttrain.errors import RecipeError

_KNOWN: ContextVar[Mapping[str, type[StageBase]]] = ContextVar("own_kinds", default={})  # noqa: B039  (never changed)


def is_own(kind: Any) -> TypeGuard[str]:
    """Whether a stage's `kind` names a class of the user's."""
    return isinstance(kind, str) and ":" in kind


def own_kind(kind: Any) -> type[StageBase] | None:
    """The class that `kind` names in the recipe that is being loaded; None if it names none."""
    return _KNOWN.get().get(kind) if is_own(kind) else None


@contextmanager
def known(kinds: Mapping[str, type[StageBase]]) -> Iterator[None]:
    """Inside, `own_kind` finds these: those of one recipe."""
    token = _KNOWN.set(kinds)
    try:
        yield
    finally:
        _KNOWN.reset(token)


def load_kind(kind: str, recipe_dir: Path) -> type[StageBase]:
    """Import the class that `kind` names.

    Raises:
        RecipeError: there is no such file or class, it can't be imported, or it isn't a stage that can run.
    """
    fix = "write it like my_stage.py:MyStage: a file from the recipe's folder, and a class in it"
    module = load_module(kind, recipe_dir)
    name = kind.rpartition(":")[2]
    found = getattr(module, name, None)
    if found is None:
        raise RecipeError(f"kind {kind!r}: the file has no class {name}", fix=fix)
    if not (isinstance(found, type) and issubclass(found, StageBase)):
        raise RecipeError(f"kind {kind!r}: {name} isn't a subclass of posttrain.configs.nodes.stage.StageBase", fix=fix)
    if found.declare is StageBase.declare:
        raise RecipeError(f"kind {kind!r}: {name} has no `declare`", fix="return a Declaration of what the stage needs")
    if not callable(getattr(module, "run", None)):
        raise RecipeError(f"kind {kind!r}: its file has no function `run(context)`", fix="define it beside the class")
    return found


def load_module(kind: str, recipe_dir: Path) -> ModuleType:
    """Import the file, or the module, that `kind` names. Raises RecipeError."""
    where = kind.rpartition(":")[0]
    path = recipe_dir / Path(where).expanduser()
    if where.endswith(".py") and not path.is_file():
        raise RecipeError(f"kind {kind!r}: there is no file {path}", fix="a path starts at the recipe's folder")
    try:
        return _import_file(path) if where.endswith(".py") else importlib.import_module(where)
    except Exception as error:
        raise RecipeError(f"kind {kind!r} can't be imported: {type(error).__name__}: {error}") from error


def _import_file(path: Path) -> ModuleType:
    """A file that didn't change is imported once, so that its classes stay the same."""
    digest = hashlib.sha256(str(path.resolve()).encode() + path.read_bytes()).hexdigest()
    name = f"posttrain_stage_{path.stem}_{digest[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # pydantic and pickle look a class's module up by name
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
