"""The solution room S: the model's code, and nothing else.

It reads its code, locks itself in, runs it, and then answers requests on one pipe. Nothing it says is believed;
it only supplies values, which the tester room compares with what it expects. Expected values never come here.
"""

from __future__ import annotations

import atexit
import builtins
import contextlib
import gc
import mmap
import os
import sys
import threading
import types
from collections.abc import Callable
from typing import Any

from posttrain.sandbox import codec, serving, watch
from posttrain.sandbox.serving import describe

MAX_CODE = 32 << 20
"""Bytes of code and standard input together, as a JSON frame."""
READY = b"1"
RAISED, DID_NOT_COMPILE = 2, 3
"""Exit codes of a program's room; they can only speak against the program."""

def run_module(channel: int, rpc: int, confine: Callable[[], None], page: mmap.mmap) -> None:
    """Loads the code as a module and serves the tester room until it hangs up."""
    code = codec.read_frame(channel, MAX_CODE)["code"]
    _lock(channel, confine, page)
    module = types.ModuleType(serving.MODULE)
    sys.modules[serving.MODULE] = module
    failure = load(code, module.__dict__)
    codec.write_frame(rpc, failure)
    if failure[0] == "loaded":
        serving.Server(rpc, module.__dict__).serve()


def run_program(channel: int, stdout: int, confine: Callable[[], None], page: mmap.mmap) -> None:
    """Runs the code as a script on the given standard input; what it prints goes to `stdout`."""
    request = codec.read_frame(channel, MAX_CODE)
    stdin = os.memfd_create("stdin")
    os.write(stdin, request["stdin"].encode("utf-8", "replace"))
    os.lseek(stdin, 0, os.SEEK_SET)
    os.dup2(stdin, 0)
    os.close(stdin)
    os.dup2(stdout, 1)
    os.close(stdout)
    sys.stdin = os.fdopen(0, encoding="utf-8", errors="replace")
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", errors="replace")
    _lock(channel, confine, page)
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    outcome = load(request["code"], module.__dict__)
    for thread in threading.enumerate():  # what the interpreter does at its end
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()
    sys.stdout.flush()
    # The output was the answer: a good exit code proves nothing.
    os._exit(0 if outcome[0] in ("loaded", "exit") else DID_NOT_COMPILE if outcome[0] == "compile" else RAISED)


def _lock(channel: int, confine: Callable[[], None], page: mmap.mmap) -> None:
    confine()
    # Said before the code runs: later, a room that failed to lock itself and hostile code look the same.
    os.write(channel, READY)
    os.close(channel)
    watch.start(page)
    gc.enable()


def load(code: str, namespace: dict[str, Any]) -> list[str]:
    """Runs the code in `namespace`; how that went: see handles.Solution.loaded."""
    namespace["__builtins__"] = builtins
    try:
        compiled = compile(code.lstrip("\ufeff"), "<solution>", "exec", dont_inherit=True)
    except MemoryError:
        return ["memory", "", "MemoryError while compiling"]
    except BaseException as error:  # noqa: BLE001  whatever the compiler throws at hostile text
        return ["compile", *describe(error)]
    try:
        exec(compiled, namespace)
    except MemoryError as error:
        return ["memory", *describe(error)]
    except SystemExit as error:
        return ["exit", *describe(error)]
    except BaseException as error:  # noqa: BLE001  the code under test may raise anything
        return ["raised", *describe(error)]
    return ["loaded", "", ""]


class _Quitter:
    """`exit` and `quit`, which the site module would bring."""

    def __call__(self, code: object = None) -> None:
        raise SystemExit(code)


def add_quitters() -> None:
    """Puts exit() and quit() among the builtins: programs end with them, and `python -S` lacks them."""
    builtins.exit = builtins.quit = _Quitter()  # type: ignore[assignment]
