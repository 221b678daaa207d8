"""The tester room's view of the solution: stand-ins for objects that live in the other room.

What comes back from the solution is plain data, or a `Handle`. A handle equals nothing but itself, save another
handle: where a test compares two of the solution's own objects, the solution's `__eq__` is what is being tested; and
so with their sums and products. With plain data there is no arithmetic, and no `in` and no `abs` at all: each would
tell the solution what the test expects, or let it answer for the test.
"""

from __future__ import annotations

import builtins
import contextlib
import os
import types
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from posttrain.sandbox import codec

_NEVER_RAISED = ("AssertionError", "SystemExit", "KeyboardInterrupt", "GeneratorExit")
_EXCEPTIONS: dict[str, type[Exception]] = {
    name: kind
    for name, kind in vars(builtins).items()
    if isinstance(kind, type) and issubclass(kind, Exception) and name not in _NEVER_RAISED
}


class SolutionGone(BaseException):
    """The solution room died or broke the protocol. No test may catch this as an ordinary exception."""


class ForgedFrame(SolutionGone):
    """What came is no answer: the room's own code would not have sent it."""


class Solution:
    """One end of the pipe to the solution room."""

    def __init__(self, rpc: int) -> None:
        self._rpc = rpc
        self._lost: SolutionGone | None = None
        self._functions: list[Callable[..., Any]] = []

    def loaded(self) -> list[str]:
        """How loading the code went: ["loaded" | "compile" | "memory" | "exit" | "raised", class, text]."""
        frame = self._receive()
        if len(frame) != 3 or not all(isinstance(v, str) for v in frame):
            raise ForgedFrame("malformed answer")
        return frame

    def check(self) -> None:
        """Raises SolutionGone if the solution was ever lost: a bare `except:` in a test may have swallowed it."""
        if self._lost is not None:
            raise self._lost

    def _lose(self, error: SolutionGone) -> SolutionGone:
        self._lost = self._lost or error
        return self._lost

    def _receive(self) -> list[Any]:
        self.check()
        try:
            frame = codec.read_frame(self._rpc)
        except (EOFError, OSError) as error:
            raise self._lose(SolutionGone(str(error))) from error
        except codec.CodecError as error:
            raise self._lose(ForgedFrame(str(error))) from error
        if not isinstance(frame, list) or not frame:
            raise self._lose(ForgedFrame("malformed answer"))
        return frame

    def _send(self, data: Any) -> None:
        self.check()
        try:
            codec.write_frame(self._rpc, data)
        except OSError as error:
            raise self._lose(SolutionGone(str(error))) from error

    def hang_up(self) -> None:
        """After the last test. Raises ForgedFrame if answers lie here that nothing asked for."""
        os.set_blocking(self._rpc, False)
        with contextlib.suppress(OSError):
            if os.read(self._rpc, 1):
                raise ForgedFrame("an answer that nothing asked for")

    def ask(self, op: str, target: Any, *rest: Any) -> Any:
        """One request; the value that comes back. Raises what the solution raised, by its built-in class."""
        return self._ask(op, target, *rest)[0]

    def _ask(self, op: str, target: Any, *rest: Any) -> tuple[Any, list[Any]]:
        self._send([op, target, *rest])
        while True:
            frame = self._receive()
            if frame[0] == "callback" and len(frame) == 3:
                self._send(self._call_back(frame[1], frame[2]))
                continue
            if len(frame) != 3:
                raise self._lose(ForgedFrame("malformed answer"))
            if frame[0] == "raised":
                _raise(str(frame[1]), str(frame[2]), op)
            if frame[0] != "ok" or not isinstance(frame[2], list):
                raise self._lose(ForgedFrame("malformed answer"))
            return self.decode(frame[1]), frame[2]

    def _call_back(self, number: Any, args: Any) -> list[Any]:
        if type(number) is not int or not 0 <= number < len(self._functions) or not isinstance(args, list):
            raise self._lose(ForgedFrame("malformed callback"))
        try:
            return ["ok", self.encode(self._functions[number](*(self.decode(a) for a in args)))]
        except Exception as error:  # noqa: BLE001  the test's own function, called with the solution's values
            return ["raised", f"{type(error).__name__}: {error}"[:300]]

    def call(self, number: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Calls the object behind handle `number`; mutable arguments are changed in place as it changed them."""
        encoded = [self.encode(a) for a in args]
        value, changed = self._ask("call", number, encoded, {k: self.encode(v) for k, v in kwargs.items()})
        for argument, data in zip(args, changed, strict=False):
            if data is not None:
                _update(argument, self.decode(data))
        return value

    def encode(self, value: Any) -> Any:
        """Raises CodecError if `value` is nothing that can be handed to the solution."""
        return codec.encode(value, self._to_handle)

    def decode(self, data: Any) -> Any:
        """Raises SolutionGone if the solution sent nonsense."""
        try:
            return codec.decode(data, self._from_handle)
        except codec.CodecError as error:
            raise self._lose(ForgedFrame(str(error))) from error

    def _to_handle(self, value: Any) -> list[Any] | None:
        if type(value) is Handle:
            return ["handle", object.__getattribute__(value, "_number"), ""]
        if isinstance(value, types.FunctionType | types.BuiltinFunctionType | type):
            self._functions.append(value)
            return ["function", len(self._functions) - 1]
        return None

    def _from_handle(self, data: list[Any]) -> Any:
        if len(data) != 3 or data[0] != "handle" or type(data[1]) is not int or not isinstance(data[2], str):
            raise codec.CodecError("malformed frame")
        return Handle(self, data[1], data[2])


def _raise(name: str, text: str, op: str) -> NoReturn:
    # A solution can't raise AssertionError or leave the tests: those mean something here. Nor can it end the test's
    # own loop, where nothing was compared yet (as PEP 479 has it for generators).
    kind = _EXCEPTIONS.get(name, RuntimeError)
    if issubclass(kind, StopIteration | StopAsyncIteration) and op != "next":
        kind, text = RuntimeError, f"{name}: {text}"
    try:
        error: Exception = kind(text)
    except TypeError:  # UnicodeDecodeError and its like want more arguments
        error = RuntimeError(f"{name}: {text}")
    raise error


def _update(argument: Any, value: Any) -> None:
    if type(argument) is not type(value):
        return
    if isinstance(argument, list | bytearray):
        argument[:] = value
    elif isinstance(argument, dict | set):
        argument.clear()
        argument.update(value)


class Handle:
    """An object of the solution, by number."""

    __slots__ = ("_drawn", "_kind", "_number", "_solution")
    _solution: Solution
    _number: int

    def __init__(self, solution: Solution, number: int, kind: str) -> None:
        for name, value in (("_solution", solution), ("_number", number), ("_kind", kind), ("_drawn", 0)):
            object.__setattr__(self, name, value)

    def _ask(self, op: str, *rest: Any) -> Any:
        return self._solution.ask(op, self._number, *rest)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._ask("attribute", name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._ask("set_attribute", name, self._solution.encode(value))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._solution.call(self._number, args, kwargs)

    def __getitem__(self, key: Any) -> Any:
        return self._ask("item", self._solution.encode(key))

    def __setitem__(self, key: Any, value: Any) -> None:
        self._ask("set_item", self._solution.encode(key), self._solution.encode(value))

    def __iter__(self) -> Iterator[Any]:
        return self._ask("iter")

    def __next__(self) -> Any:
        if self._drawn >= codec.MAX_ITEMS:
            raise codec.CodecError(f"more than {codec.MAX_ITEMS} items drawn from an iterator")
        object.__setattr__(self, "_drawn", self._drawn + 1)
        return self._ask("next")

    def __len__(self) -> int:
        return self._ask("len")

    def __bool__(self) -> bool:
        return True

    def __contains__(self, item: Any) -> bool:
        return any(item is v or item == v for v in self)

    def __str__(self) -> str:
        return str(self._ask("str"))

    def __repr__(self) -> str:
        return str(self._ask("repr"))

    def _compare(self, name: str, other: Any) -> Any:
        if type(other) is not Handle or other._kind != self._kind:
            return NotImplemented
        return self._ask("compare", name, self._solution.encode(other)) is True

    def __eq__(self, other: object) -> Any:
        same = type(other) is Handle and other._number == self._number
        return True if same else self._compare("eq", other)

    def __lt__(self, other: Any) -> Any:
        return self._compare("lt", other)

    def __le__(self, other: Any) -> Any:
        return self._compare("le", other)

    def __gt__(self, other: Any) -> Any:
        return self._compare("gt", other)

    def __ge__(self, other: Any) -> Any:
        return self._compare("ge", other)

    def __hash__(self) -> int:
        return hash(self._number)

    def __instancecheck__(self, instance: Any) -> bool:
        return type(instance) is Handle and self._ask("instance", self._solution.encode(instance)) is True

    _kind: str
    _drawn: int


def _arithmetic(name: str) -> Callable[[Handle, Any], Any]:
    def operate(self: Handle, other: Any) -> Any:
        return self._ask("operate", name, self._solution.encode(other)) if type(other) is Handle else NotImplemented

    return operate


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and_", "or_", "xor"):
    setattr(Handle, f"__{_name.rstrip('_')}__", _arithmetic(_name))
