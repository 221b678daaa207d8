"""The session room: an interpreter that keeps its namespace from cell to cell. Runs inside the room."""

from __future__ import annotations

import ast
import builtins
import gc
import io
import linecache
import mmap
import os
import sys
import traceback
import types
from collections.abc import Callable
from typing import Any

from posttrain.sandbox import codec
from posttrain.sandbox.rooms import watch
from posttrain.sandbox.rooms.solution_room import MAX_CODE, READY

MAX_TEXT = 64 << 10
"""Characters kept of what a cell prints, of its value, and of its traceback."""
MAX_REPLY = 12 * 3 * MAX_TEXT + 1000
"""Bytes of a reply: a character takes at most 12 in JSON."""


class _Capped(io.TextIOBase):
    """Keeps the first MAX_TEXT characters; takes and forgets the rest."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._left = MAX_TEXT

    def write(self, text: str) -> int:
        if self._left > 0:
            self._parts.append(text[: self._left])
            self._left -= len(self._parts[-1])
        return len(text)

    def writable(self) -> bool:
        return True

    def take(self) -> str:
        kept, self._parts, self._left = "".join(self._parts), [], MAX_TEXT
        return kept


def run_cells(spare: int, channel: int, confine: Callable[[], None], page: mmap.mmap) -> None:
    """Answers cells until the other side hangs up."""
    os.close(spare)
    confine()
    os.write(channel, READY)
    watch.start(page)
    gc.enable()
    module = types.ModuleType("__main__")
    module.__dict__["__builtins__"] = builtins
    sys.modules["__main__"] = module
    captured = _Capped()
    number = 0
    while True:
        try:
            code = codec.read_frame(channel, MAX_CODE)["code"]
        except EOFError:
            return
        number += 1
        # Again for each cell: the last one may have put anything in their place.
        sys.stdout = sys.stderr = captured
        outcome, value, error = _run(code, f"<cell {number}>", module.__dict__)
        codec.write_frame(channel, [outcome, captured.take(), value[:MAX_TEXT], error[:MAX_TEXT]])


def _run(code: str, name: str, namespace: dict[str, Any]) -> tuple[str, str, str]:
    linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)  # for tracebacks
    try:
        body, last = _split(code, name)
        exec(compile(body, name, "exec", dont_inherit=True), namespace)
        result = eval(compile(last, name, "eval", dont_inherit=True), namespace) if last else None
        if result is not None:
            namespace["_"] = result
        return "ok", "" if result is None else repr(result), ""
    except SystemExit:
        raise
    except MemoryError:
        return "memory", "", "MemoryError"
    except BaseException as error:  # noqa: BLE001  a cell may raise anything
        return "error", "", _traceback(error)


def _split(code: str, name: str) -> tuple[ast.Module, ast.Expression | None]:
    tree = ast.parse(code, name)
    if tree.body and isinstance(tree.body[-1], ast.Expr):
        last = tree.body.pop()
        assert isinstance(last, ast.Expr)
        return tree, ast.Expression(last.value)
    return tree, None


def _traceback(error: BaseException) -> str:
    try:
        frames = error.__traceback__
        while frames is not None and not frames.tb_frame.f_code.co_filename.startswith("<cell"):
            frames = frames.tb_next
        return "".join(traceback.format_exception(type(error), error, frames, limit=20))
    except BaseException:  # noqa: BLE001  its own __str__ may raise
        return type(error).__name__
