"""Where the code of a reward stands that a recipe names by file or by module: read, and never run."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

from posttrain.rewards.mixture.loader import split_path

Function = ast.FunctionDef | ast.AsyncFunctionDef


def source_of(use: str, recipe_dir: Path) -> Path | None:
    """The file of `path/to/file.py:attr`, or of `package.module:attr` where that lies beneath the recipe's folder."""
    parts = split_path(use)
    if parts is None:
        return None
    where = parts[0]
    if where.endswith(".py"):
        return recipe_dir / where
    return _module_file(recipe_dir, where.split("."))


def files_of(uses: Sequence[str], recipe_dir: Path) -> list[Path]:
    """The files of what is named by file or module, as in `use`, and all that they import beneath the recipe's folder.

    In order, each once; they are part of a stage's key. Installed packages aren't followed, nor imports whose names
    are made while running.
    """
    waiting = [path for use in uses for path in _use_files(use, recipe_dir)]
    files: dict[Path, None] = {}
    while waiting:
        path = waiting.pop(0)
        if path not in files:
            files[path] = None
            waiting += _imported(path, recipe_dir)
    return list(files)


def definition(path: Path, attribute: str) -> Function | bool:
    """The function as the file defines it; True if the name is bound some other way, False if not at all.

    Raises:
        OSError, SyntaxError: the file can't be read, or is no Python.
    """
    tree = ast.parse(path.read_bytes(), str(path))  # bytes: Python itself knows what to do with marks and encodings
    found: Function | bool = False
    for node in tree.body:
        if isinstance(node, Function) and node.name == attribute:
            found = node
        elif _binds(node, attribute):
            found = found or True
    return found


def class_parameters(path: Path, name: str) -> tuple[str, ...] | None:
    """What a class of the file takes when it is made; None where that can't be read off its own `__init__`.

    Raises:
        LookupError: the file defines nothing of that name.
        OSError, SyntaxError: the file can't be read, or is no Python.
    """
    tree = ast.parse(path.read_bytes(), str(path))
    found = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    if not found:
        if any(_binds(node, name) for node in tree.body):
            return None
        raise LookupError(name)
    init = next((n for n in found[-1].body if isinstance(n, Function) and n.name == "__init__"), None)
    if init is None or init.args.kwarg is not None:
        return None
    return tuple(a.arg for a in (*init.args.posonlyargs, *init.args.args, *init.args.kwonlyargs))[1:]


def _binds(node: ast.AST, name: str) -> bool:
    """Whether a statement may bind the name in its module; a star import may bind any."""
    if isinstance(node, Function | ast.ClassDef):
        return node.name == name
    if isinstance(node, ast.alias):
        return (node.asname or node.name) in (name, "*")
    if isinstance(node, ast.Name):
        return node.id == name and isinstance(node.ctx, ast.Store)
    return any(_binds(child, name) for child in ast.iter_child_nodes(node))


def _use_files(use: str, recipe_dir: Path) -> Iterator[Path]:
    parts = split_path(use)
    if parts is None:
        return
    if parts[0].endswith(".py"):
        yield recipe_dir / parts[0]
    else:
        yield from _along(recipe_dir, parts[0].split("."))


def _imported(path: Path, recipe_dir: Path) -> Iterator[Path]:
    """The local files that the imports of a file run, wherever in it they stand."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return  # it is told to whoever imports it
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _along(recipe_dir, alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            root = path.parents[node.level - 1] if 0 < node.level <= len(path.parents) else recipe_dir
            if not root.is_relative_to(recipe_dir):
                continue
            module = node.module.split(".") if node.module else []
            for alias in node.names:  # each is a module of the package, or something in its __init__.py
                yield from _along(root, [*module, alias.name])
            yield from _along(root, module) if module else _existing(root / "__init__.py")


def _along(root: Path, names: Sequence[str]) -> Iterator[Path]:
    """The files that `import a.b.c` runs: those of a, a.b and a.b.c, as far as they are beneath `root`."""
    for length in range(1, len(names) + 1):
        if found := _module_file(root, names[:length]):
            yield found


def _module_file(root: Path, names: Sequence[str]) -> Path | None:
    base = root.joinpath(*names)
    candidates = (base / "__init__.py", base.parent / f"{base.name}.py")
    return next((path for path in candidates if path.is_file()), None)


def _existing(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
