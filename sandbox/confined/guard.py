"""Refuses, inside a room for verifiers, to compile or run text as Python: a library must not evaluate an answer.

The room's filter keeps the host safe whatever is evaluated. This guard keeps the verdict safe: text that ran as code
in the process that scores it could return any score. Python reports each compilation and each run of a code object
as an audit event; all of them are refused, except those of modules that are being imported, and those that a caller
has declared as its own by `own_code` (a parsed and checked expression).
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

_REFUSED = ("compile", "exec", "ctypes.", "code.__new__", "pickle.find_class", "gc.get_", "os.system",
            "subprocess.Popen", "pty.spawn", "os.exec", "os.posix_spawn", "os.fork", "socket.connect",
            "socket.bind")  # fmt: skip
"""Audit events that are refused, by how they begin."""
_own = 0
_refusals = 0


class Refused(RuntimeError):
    """Something asked Python to run text, or to do what no verifier needs."""


def start(*, network: bool = False) -> None:
    """Guards this process from now on; there is no way to stop it."""
    refused = tuple(event for event in _REFUSED if not (network and event == "socket.connect"))

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event.startswith(refused) and not _own and not _importing():
            _refuse(event)

    sys.addaudithook(hook)


def take_refusals() -> int:
    """How many events have been refused since the last call."""
    global _refusals
    count, _refusals = _refusals, 0
    return count


@contextlib.contextmanager
def own_code() -> Iterator[None]:
    """Allows what is refused otherwise, for code that the caller wrote or has checked."""
    global _own
    _own += 1
    try:
        yield
    finally:
        _own -= 1


def _refuse(event: str) -> None:
    global _refusals
    _refusals += 1
    raise Refused(f"{event} isn't allowed while an answer is scored")


def _importing() -> bool:
    """Whether a module is being imported: its own text may run, and what its body generates (dataclasses, enums)."""
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False
