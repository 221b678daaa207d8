"""`posttrain init`: a project that works as it is, or a recipe alone. Written whole or not at all."""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
import shutil
from pathlib import Path

from posttrain.configs.load import PACKAGED
from posttrain.errors import InputError

TEMPLATES = PACKAGED.parent / "project"
FILES = ("README.md", "recipe.yaml", "rewards.py", "test_rewards.py", "data/prompts.jsonl")
NAME = "my-project"
"""What the templates call the run."""


def write_project(folder: Path) -> tuple[str, ...]:
    """Write the project into `folder`, new or empty, and give the files' names.

    They are written under a temporary name first, beside a new folder or inside an empty one.

    Raises:
        InputError: there is something already, or the folder can't be made; nothing is written.
    """
    _check(folder)
    new = not folder.exists()
    temporary = (folder.parent if new else folder) / f".{folder.resolve().name}-{secrets.token_hex(4)}"
    try:
        _fill(temporary, run_name(folder))
        if new:
            os.rename(temporary, folder)
        else:
            _move_up(temporary, folder)
    except OSError as error:
        fix = "name a folder where you may write"
        raise InputError(f"can't be written: {error.strerror or error}", where=str(folder), fix=fix) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return FILES


def write_recipe(path: Path) -> None:
    """Write the starter recipe alone. Raises InputError if the file is there, or can't be written."""
    if path.exists():
        raise InputError("there is such a file already", where=str(path), fix="name another one")
    _check_parent(path)
    try:
        path.write_text((PACKAGED / "starter.yaml").read_text("utf-8"), "utf-8")
    except OSError as error:
        raise InputError(f"can't be written: {error.strerror}", where=str(path), fix="name another one") from None


def next_commands(folder: Path) -> list[str]:
    """What to type after `write_project`."""
    enter = [] if folder.resolve() == Path.cwd() else [f"cd {shlex.quote(str(folder))}"]
    return [*enter, "pytest", "posttrain plan recipe.yaml --check", "posttrain run recipe.yaml"]


def run_name(folder: Path) -> str:
    """The folder's name as a recipe's: letters, digits, and -_. inside."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", folder.resolve().name).strip("-_.") or NAME


def _check(folder: Path) -> None:
    where = str(folder)
    try:
        if not folder.exists():
            _check_parent(folder)
        elif not folder.is_dir():
            raise InputError(
                "is a file, and a project is a folder", where=where, fix="name a folder that is new or empty"
            )
        elif found := sorted(path.name for path in folder.iterdir()):
            what = f"the folder isn't empty: it has {', '.join(found[:3])}{' ...' if len(found) > 3 else ''}"
            raise InputError(what, where=where, fix="name a folder that is new or empty")
    except OSError as error:
        raise InputError(f"can't be read: {error.strerror}", where=where, fix="name another folder") from None


def _check_parent(path: Path) -> None:
    parent = path.parent
    if parent.is_dir():
        return
    blocking = next((p for p in (parent, *parent.parents) if p.exists() and not p.is_dir()), None)
    if blocking is not None:
        raise InputError(f"{blocking} is a file, not a folder", where=str(path), fix="name another place")
    fix = f"mkdir -p {shlex.quote(str(parent))}"
    raise InputError(f"there is no folder {parent}", where=str(path), fix=fix)


def _fill(folder: Path, name: str) -> None:
    folder.mkdir()
    for file in FILES:
        text = (TEMPLATES / file).read_text("utf-8")
        if file == "recipe.yaml":  # quoted: a folder may be called 2024 or null
            text = text.replace(f"name: {json.dumps(NAME)}", f"name: {json.dumps(name)}", 1)
        elif file == "README.md":
            text = text.replace("runs/NAME", f"runs/{name}")
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text(text, "utf-8")


def _move_up(temporary: Path, folder: Path) -> None:
    """Moves all of `temporary` into `folder`; takes it back out if that fails halfway."""
    moved: list[Path] = []
    try:
        for path in sorted(temporary.iterdir()):
            os.rename(path, folder / path.name)
            moved.append(folder / path.name)
    except BaseException:
        for path in moved:
            os.rename(path, temporary / path.name)
        raise
