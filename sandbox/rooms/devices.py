"""Files that a room has open already, by their names: /dev/stdin and its like can't be opened in every tier.

A convenience for honest programs, put among the builtins: nothing depends on it.
"""

from __future__ import annotations

import builtins
import io
import os
import re
import sys
from typing import Any

SCRIPT = "solution.py"
"""What a program sees as its own file and as sys.argv[0]."""
_NAMES = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2, os.devnull: 2}
_NUMBERED = re.compile(r"/(?:dev|proc/self)/fd/([012])")
_open, open_anew = io.open, os.open


def descriptor(path: Any) -> int | None:
    """The open file that `path` names, if it names one; standard error is the null device in every room."""
    name = path if type(path) is str else os.fspath(path) if isinstance(path, os.PathLike) else None
    if not isinstance(name, str):
        return None
    numbered = _NUMBERED.fullmatch(name)
    return int(numbered[1]) if numbered else _NAMES.get(name)


def install() -> None:
    """In this process and its rooms."""

    def open(file: Any, *args: Any, **options: Any) -> Any:
        known = descriptor(file)
        return _open(file if known is None else os.dup(known), *args, **options)

    def open_descriptor(path: Any, flags: int, *args: Any, **options: Any) -> int:
        known = descriptor(path)
        return open_anew(path, flags, *args, **options) if known is None else os.dup(known)

    builtins.open = io.open = open
    os.open = open_descriptor
    sys.argv[:] = sys.orig_argv[:] = [SCRIPT]
