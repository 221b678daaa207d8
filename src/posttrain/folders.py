"""Folders that are whole or not there: written under another name, flushed to the disk, renamed."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

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
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}.tmp-") as temporary:
        made = Path(shutil.copytree(source, Path(temporary) / "copy"))
        sync_tree(made)
        made.rename(folder)
    sync(folder.parent)
