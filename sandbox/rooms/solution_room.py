"""The solution room S: the model's code, and nothing else.

It reads its code, locks itself in, runs it, and then answers requests on one pipe. Nothing it says is believed;
it only supplies values, which the tester room compares with what it expects. Expected values never come here.
"""

from __future__ import annotations

import builtins
import gc
import mmap
import os
import sys
import types
from collections.abc import Callable
from typing import Any

from posttrain.sandbox import codec
from posttrain.sandbox.rooms import serving, watch
from posttrain.sandbox.rooms.serving import describe

MAX_CODE = 32 << 20
"""Bytes of code and standard input together, as a JSON frame."""
READY = b"1"


def run_module(channel: int, rpc: int, confine: Callable[[], None], page: mmap.mmap) -> None:
    """Loads the code as a module and serves the tester room until it hangs up."""
    code = codec.read_frame(channel, MAX_CODE)["code"]
    lock(channel, confine, page)
    module = types.ModuleType(serving.MODULE)
    sys.modules[serving.MODULE] = module
    failure = load(code, module.__dict__)
    codec.write_frame(rpc, failure)
    if failure[0] == "loaded":
        serving.Server(rpc, module.__dict__).serve()


def lock(channel: int, confine: Callable[[], None], page: mmap.mmap) -> None:
    """Locks this room in, says so, and hangs up."""
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
