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
import operator
import os
import sys
import threading
import types
from collections.abc import Callable
from typing import Any

from posttrain.sandbox import codec, watch

MAX_CODE = 32 << 20
"""Bytes of code and standard input together, as a JSON frame."""
READY = b"1"
RAISED, DID_NOT_COMPILE = 2, 3
"""Exit codes of a program's room; they can only speak against the program."""
_TEXT = 300
_READERS: dict[str, Callable[[Any], Any]] = {"len": len, "iter": iter, "next": next, "str": str, "repr": repr}
_OPERATIONS = {
    name: getattr(operator, name)
    for name in ("eq", "lt", "le", "gt", "ge", "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul",
                 "and_", "or_", "xor")
}  # fmt: skip


def run_module(channel: int, rpc: int, confine: Callable[[], None], page: mmap.mmap) -> None:
    """Loads the code as a module and serves the tester room until it hangs up."""
    code = codec.read_frame(channel, MAX_CODE)["code"]
    _lock(channel, confine, page)
    module = types.ModuleType("solution")
    sys.modules["solution"] = module
    failure = load(code, module.__dict__)
    codec.write_frame(rpc, failure)
    if failure[0] == "loaded":
        Server(rpc, module.__dict__).serve()


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


def describe(error: BaseException) -> tuple[str, str]:
    """(nearest built-in exception class, short text); the text is empty if the exception can't say it."""
    builtin = next((k.__name__ for k in type(error).__mro__ if vars(builtins).get(k.__name__) is k), "Exception")
    try:
        text = f"{type(error).__name__}: {error}" if type(error).__name__ != builtin else str(error)
        return builtin, text[:_TEXT]
    except BaseException:  # noqa: BLE001  its __str__ is hostile too
        return builtin, ""


class Server:
    """Answers the tester room's requests: values by name, calls, attributes, items."""

    def __init__(self, rpc: int, namespace: dict[str, Any]) -> None:
        self._rpc = rpc
        self._namespace = namespace
        self._handles: list[Any] = []

    def serve(self) -> None:
        """Returns when the tester room hangs up."""
        while True:
            try:
                request = codec.read_frame(self._rpc, codec.MAX_FRAME)
            except EOFError:
                return
            codec.write_frame(self._rpc, self.reply(request))

    def reply(self, request: list[Any]) -> list[Any]:
        """["ok", value, changed arguments] or ["raised", class, text]."""
        try:
            value, changed = self._answer(*request)
            return ["ok", codec.encode(value, self._to_handle), changed]
        except BaseException as error:  # noqa: BLE001  passed on by name
            return ["raised", *describe(error)]

    def _to_handle(self, value: Any) -> list[Any]:
        self._handles.append(value)
        return ["handle", len(self._handles) - 1, type(value).__name__]

    def _from_handle(self, data: list[Any]) -> Any:
        if data[0] == "function":
            return self._callback(data[1])
        return self._handles[data[1]]

    def _callback(self, number: int) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            codec.write_frame(self._rpc, ["callback", number, [codec.encode(a, self._to_handle) for a in args]])
            outcome, value = codec.read_frame(self._rpc)
            if outcome != "ok":
                raise RuntimeError(value)
            return self._decode(value)

        return call

    def _decode(self, data: Any) -> Any:
        return codec.decode(data, self._from_handle)

    def _answer(self, op: str, target: Any, *rest: Any) -> tuple[Any, list[Any]]:
        if op == "global":
            return self._namespace[target], []
        value = self._handles[target]
        if op == "call":
            args = [self._decode(a) for a in rest[0]]
            kwargs = {k: self._decode(a) for k, a in rest[1].items()}
            result = value(*args, **kwargs)
            return result, [self._changed(a) for a in args]
        if op == "set_attribute":
            setattr(value, rest[0], self._decode(rest[1]))
            return None, []
        if op == "set_item":
            value[self._decode(rest[0])] = self._decode(rest[1])
            return None, []
        return self._read(op, value, rest), []

    def _changed(self, argument: Any) -> Any:
        mutable = isinstance(argument, list | dict | set | bytearray)
        return codec.encode(argument, self._to_handle) if mutable else None

    def _read(self, op: str, value: Any, rest: tuple[Any, ...]) -> Any:
        if op == "attribute":
            return getattr(value, rest[0])
        if op == "item":
            return value[self._decode(rest[0])]
        if op in ("compare", "operate"):
            return _OPERATIONS[rest[0]](value, self._decode(rest[1]))
        if op == "instance":
            return isinstance(self._decode(rest[0]), value)
        return _READERS[op](value)


class _Quitter:
    """`exit` and `quit`, which the site module would bring."""

    def __call__(self, code: object = None) -> None:
        raise SystemExit(code)


def add_quitters() -> None:
    """Puts exit() and quit() among the builtins: programs end with them, and `python -S` lacks them."""
    builtins.exit = builtins.quit = _Quitter()  # type: ignore[assignment]
