"""What this process, or a child that shares its standard error, last complained about.

vLLM's processes say why they end on their standard error, which in a Ray actor is a file that nobody sees.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

STDERR = "/proc/self/fd/2"
_READ = 200_000
_ERROR = re.compile(r"\b(\w+(?:Error|Exception): .+)$", re.M)
_FOLLOWING = ("Engine core initialization failed", "EngineCore encountered an issue", "EngineDeadError")
"""Errors that only say that there was one before."""


def written(stderr: str = STDERR) -> int:
    """The bytes that are in the log so far; 0 where standard error is no file."""
    path = Path(os.path.realpath(stderr))
    return path.stat().st_size if path.is_file() else 0


def last_error(stderr: str = STDERR, since: int = 0) -> str:
    """The last error of the log that is a cause, in one line; empty where standard error is no file, or has none.

    `since`: what was `written` before doesn't count.
    """
    path = Path(os.path.realpath(stderr))
    if not path.is_file():
        return ""
    with path.open("rb") as log:
        log.seek(max(since, path.stat().st_size - _READ))
        text = log.read().decode("utf-8", "replace")
    found = [line for line in _ERROR.findall(text) if not any(follows in line for follows in _FOLLOWING)]
    return found[-1].strip()[:500] if found else ""
