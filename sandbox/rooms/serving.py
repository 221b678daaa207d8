"""Answers, in the solution room, what the tester room asks of the solution's values.

    [op, target, opaque, ...]   ->   ["ok", value, changed arguments or null, what it printed]
                                     ["raised", built-in class, text, own classes, instance, arguments, printed]
                                     ["too_large", text]

`target` is a name (for `global`) or the number of a value that went out before. `opaque`: instances of the solution's
own classes stay here whatever they extend, and only their number crosses; else what extends a plain type crosses as
that type. Nothing that is decided here protects anything: hostile code may have changed all of it.
"""

from __future__ import annotations

import asyncio
import builtins
import copy
import io
import operator
import sys
import types
from collections.abc import Callable
from typing import Any

from posttrain.sandbox import codec

MODULE = "solution"
"""Name of the module that the code is run as."""
MAX_PRINTED = 64 << 10
"""Bytes of standard output kept for one call, where the tests look at it."""
_TEXT = 300
_UNARY: dict[str, Callable[[Any], Any]] = {
    "len": len, "iter": iter, "next": next, "str": str, "repr": repr, "bool": bool, "hash": hash, "abs": abs,
    "neg": operator.neg, "pos": operator.pos, "invert": operator.invert, "int": int, "float": float,
    "complex": complex, "index": operator.index, "reversed": reversed, "copy": copy.copy, "deepcopy": copy.deepcopy,
}  # fmt: skip
_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    name: getattr(operator, name)
    for name in ("eq", "lt", "le", "gt", "ge", "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul",
                 "and_", "or_", "xor", "lshift", "rshift", "contains", "getitem", "delitem",
                 "iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "imatmul", "iand", "ior", "ixor",
                 "ilshift", "irshift")
} | {"format": format, "round": round, "divmod": divmod, "isinstance": lambda value, kind: isinstance(kind, value),
     "issubclass": lambda value, kind: issubclass(kind, value), "delattr": delattr}  # fmt: skip
_PLAIN_BASES = (str, int, float, bytes, bytearray, list, tuple, dict, set, frozenset)


def describe(error: BaseException) -> tuple[str, str]:
    """(nearest built-in exception class, short text); the text is empty if the exception can't say it."""
    builtin = _builtin_base(type(error))
    try:
        text = f"{type(error).__name__}: {error}" if type(error).__name__ != builtin else str(error)
        return builtin, text[:_TEXT]
    except BaseException:  # noqa: BLE001  its __str__ is hostile too
        return builtin, ""


def _builtin_base(kind: type) -> str:
    return next((k.__name__ for k in kind.__mro__ if vars(builtins).get(k.__name__) is k), "Exception")


class Server:
    """Serves one channel. Every value that went out is kept: its number is its name."""

    def __init__(self, rpc: int, namespace: dict[str, Any]) -> None:
        self._rpc = rpc
        self._namespace = namespace
        self._values: list[Any] = []
        self._numbers: dict[int, int] = {}
        self._callbacks: dict[int, int] = {}
        self._opaque = False
        self._printed: io.BytesIO | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def serve(self) -> None:
        """Returns when the tester room hangs up."""
        while True:
            try:
                request = codec.read_frame(self._rpc, codec.MAX_FRAME)
            except EOFError:
                return
            answer = self.reply(request)
            try:
                codec.write_frame(self._rpc, answer)
            except codec.CodecError as error:
                codec.write_frame(self._rpc, ["too_large", str(error)])

    def reply(self, request: list[Any]) -> list[Any]:
        """The answer to one request; never raises for what the solution does."""
        try:
            op, target, opaque, *rest = request
            self._opaque = False
            value, changed = self._answer(op, target, rest)
            self._opaque = opaque
            return ["ok", self._encode(value), changed, self._take_printed()]
        except codec.CodecError as error:
            return ["too_large", str(error)]
        except BaseException as error:  # noqa: BLE001  passed on by name
            return ["raised", *describe(error), *self._own_exception(error), self._take_printed()]

    # ------------------------------------------------------------ what is asked

    def _answer(self, op: str, target: Any, rest: list[Any]) -> tuple[Any, Any]:
        if op == "global":
            return self._namespace[target], None
        if op == "capture":
            self._capture()
            return None, None
        value = self._values[target]
        if op in ("call", "method"):
            name, *rest = rest if op == "method" else ("", *rest)
            return self._call(getattr(value, name) if op == "method" else value, *rest)
        if op == "attribute":
            return getattr(value, rest[0]), None
        if op in ("set_attribute", "set_item"):
            key, item = self._decode(rest[0]), self._decode(rest[1])
            (setattr if op == "set_attribute" else operator.setitem)(value, key, item)
            return None, None
        return self._operate(op, value, [self._decode(data) for data in rest]), None

    def _call(self, function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        given = [self._decode(a) for a in args]
        named = {k: self._decode(a) for k, a in kwargs.items()}
        result = function(*given, **named)
        changed = [self._changed(value, data) for value, data in zip(given, args, strict=True)]
        changed_named = {k: self._changed(value, kwargs[k]) for k, value in named.items()}
        if all(c is None for c in (*changed, *changed_named.values())):
            return result, None
        return result, [changed, changed_named]

    def _changed(self, value: Any, data: Any) -> Any:
        """The argument as it is now, or None if it is as it came."""
        if not isinstance(data, list) or data[0] in ("handle", "function", "iterator", "error"):
            return None
        now = self._encode(value)
        return None if now == data else now

    def _operate(self, op: str, value: Any, operands: list[Any]) -> Any:
        if op in _UNARY:
            return _UNARY[op](value)
        if op == "reflected":
            return _BINARY[operands[0]](operands[1], value)
        if op == "flat":
            return [value] if isinstance(value, _PLAIN_BASES) else None
        if op == "send":
            return value.send(operands[0])
        if op in ("await", "anext"):
            return self._run(value if op == "await" else anext(value))
        if op == "exit":
            name, text = operands
            error = getattr(builtins, name, RuntimeError)(text) if name else None
            return value.__exit__(None if error is None else type(error), error, None)
        return _BINARY[op](value, *operands)

    def _run(self, awaitable: Any) -> Any:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()  # one for all: what a first call made may be awaited in a later one

        async def wait() -> Any:
            return await awaitable

        return self._loop.run_until_complete(wait())

    # ------------------------------------------------------------ what goes out and comes in

    def _encode(self, value: Any) -> Any:
        return codec.encode(value, self._to_handle, _is_own if self._opaque else None)

    def _to_handle(self, value: Any) -> list[Any]:
        if id(value) in self._callbacks and callable(value):
            return ["function", self._callbacks[id(value)]]
        if isinstance(value, type) and issubclass(value, BaseException) and value.__module__ == MODULE:
            return ["exception", self._chain(value)]
        return ["handle", self._number(value), type(value).__name__]

    def _number(self, value: Any) -> int:
        number = self._numbers.get(id(value))
        if number is None:
            number = self._numbers[id(value)] = len(self._values)
            self._values.append(value)
        return number

    def _chain(self, kind: type) -> list[list[Any]]:
        """[number, name, nearest built-in class] of an exception class and those of its bases that are ours."""
        return [
            [self._number(k), k.__name__, _builtin_base(k)]
            for k in kind.__mro__[:20]
            if k.__module__ == MODULE and issubclass(k, BaseException)
        ]

    def _own_exception(self, error: BaseException) -> tuple[Any, Any, Any]:
        """(classes of its own, number of the instance, arguments)."""
        chain = self._chain(type(error))
        try:
            args = [codec.encode(a, self._to_handle) for a in error.args]
        except BaseException:  # noqa: BLE001  whatever it holds; the text says it as well
            args = None
        if args is not None and len(repr(args)) > 10 * _TEXT:
            args = None
        return chain, self._number(error) if chain else None, args

    def _from_handle(self, data: list[Any]) -> Any:
        if data[0] == "function":
            return self._callback(data[1], data[2])
        if data[0] == "error":
            kind: type[Exception] = getattr(builtins, data[1])
            return kind(data[2])
        if data[0] == "iterator":
            return iter([self._decode(item) for item in data[1:]])
        if data[0] == "builtin":
            return getattr(builtins, data[1])
        return self._values[data[1]]

    def _callback(self, number: int, name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            given = [codec.encode(a, self._to_handle) for a in args]
            named = {k: codec.encode(a, self._to_handle) for k, a in kwargs.items()}
            codec.write_frame(self._rpc, ["callback", number, given, named])
            outcome, *rest = codec.read_frame(self._rpc)
            if outcome != "ok":
                name, text = rest
                raise getattr(builtins, name, RuntimeError)(text)
            return self._decode(rest[0])

        call.__name__ = call.__qualname__ = name  # what functools.wraps looks at
        self._callbacks[id(call)] = number
        self._values.append(call)  # kept: another object could get its address
        return call

    def _decode(self, data: Any) -> Any:
        return codec.decode(data, self._from_handle)

    # ------------------------------------------------------------ what is printed

    def _capture(self) -> None:
        self._printed = _Capped()
        sys.stdout = io.TextIOWrapper(self._printed, encoding="utf-8", errors="replace", write_through=True)

    def _take_printed(self) -> str:
        if self._printed is None:
            return ""
        text = self._printed.getvalue().decode("utf-8", "replace")
        self._printed.seek(0)
        self._printed.truncate()
        return text


class _Capped(io.BytesIO):
    """Takes MAX_PRINTED bytes and forgets the rest."""

    def write(self, data: Any) -> int:
        super().write(bytes(data)[: max(0, MAX_PRINTED - self.tell())])
        return len(data)


def _is_own(value: Any) -> bool:
    kind = type(value)
    if isinstance(value, tuple) and hasattr(kind, "_fields"):  # named, whoever made it: functools' cache_info()
        return True
    return kind.__module__ == MODULE and not issubclass(kind, type | types.FunctionType)
