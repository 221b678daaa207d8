"""The room of a whole program: standard input in, standard output out, and an end like that of `python file.py`."""

from __future__ import annotations

import atexit
import contextlib
import gc
import mmap
import os
import sys
import threading
import types
from collections.abc import Callable

from posttrain.sandbox import codec
from posttrain.sandbox.rooms import devices
from posttrain.sandbox.rooms.solution_room import MAX_CODE, load, lock

RAISED, DID_NOT_COMPILE = 2, 3
"""Exit codes of a program's room; they can only speak against the program."""


def run_program(channel: int, stdout: int, confine: Callable[[], None], page: mmap.mmap) -> None:
    """Runs the code as a script on the given standard input; what it prints goes to `stdout`."""
    request = codec.read_frame(channel, MAX_CODE)
    stdin = os.memfd_create("stdin")
    with os.fdopen(os.dup(stdin), "wb") as file:
        file.write(request["stdin"].encode("utf-8", "replace"))
    os.lseek(stdin, 0, os.SEEK_SET)
    os.dup2(stdin, 0)
    os.close(stdin)
    os.dup2(stdout, 1)
    os.close(stdout)
    sys.stdin = sys.__stdin__ = os.fdopen(0, encoding="utf-8", errors="replace")  # type: ignore[misc]
    sys.stdout = sys.__stdout__ = os.fdopen(1, "w", encoding="utf-8", errors="replace")  # type: ignore[misc]
    lock(channel, confine, page)
    module = types.ModuleType("__main__")
    module.__file__ = devices.SCRIPT
    sys.modules["__main__"] = module
    outcome = load(request["code"], module.__dict__)
    _end(module)
    # The output was the answer: a good exit code proves nothing.
    os._exit(0 if outcome[0] in ("loaded", "exit") else DID_NOT_COMPILE if outcome[0] == "compile" else RAISED)


def _end(module: types.ModuleType) -> None:
    """What the interpreter does at its end, in its order: other threads, exit functions, what globals hold.

    A file that is still open is written out when its last name goes, and `__del__` may print.
    """
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()
    _flush()
    names = [name for name in vars(module) if name != "__builtins__"]
    for name in sorted(names, key=lambda name: not (name.startswith("_") and not name.startswith("__"))):
        with contextlib.suppress(BaseException):
            vars(module)[name] = None
    with contextlib.suppress(BaseException):
        gc.collect()
    _flush()


def _flush() -> None:
    for stream in (sys.stdout, sys.__stdout__):
        with contextlib.suppress(BaseException):
            stream.flush()  # type: ignore[union-attr]
