"""Files and folders that are whole or as they were: written under another name, flushed to the disk, renamed."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from posttrain.errors import InputError


def sync_tree(folder: Path) -> None:
    """fsync every file and folder below `folder`."""
    for root, _, names in os.walk(folder):
        for name in names:
            sync(Path(root) / name)
        sync(Path(root))


def sync(path: Path) -> None:
    """fsync a file or a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_empty(folder: Path) -> None:
    """Raises InputError if there is something at `folder` already."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError("the folder isn't empty", where=str(folder), fix="name another one")


def copy_whole(source: Path, folder: Path) -> None:
    """Copy a folder; what is at `folder` is all of it. Raises InputError if there is something already."""
    check_empty(folder)
    with whole_folder(folder) as temporary:
        shutil.copytree(source, temporary, dirs_exist_ok=True)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Give an empty folder beside `folder`, which takes its place when the block ends; if it raises, nothing changes.

    For one writer at a time: what a killed one left behind is removed.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        sync_tree(temporary)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync(folder.parent)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a name beside `path`; what is written there takes its place when the block ends.

    If the block raises, `path` is as it was.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, data: Any) -> None:
    """Write a JSON file, whole or not at all; what JSON doesn't know becomes text."""
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False, default=str) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is no such file or it isn't whole."""
    try:
        data = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
