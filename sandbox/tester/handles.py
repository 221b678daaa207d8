"""The tester room's end of the pipe to the solution: what is asked, and what the answers are here.

What comes back is plain data, or a stand-in (`objects.Handle`). Three kinds get stand-ins of Python's own, so that
`asyncio.run`, `isinstance` and `except` take them: coroutines, generators, and the solution's exception classes.
"""

from __future__ import annotations

import builtins
import collections
import contextlib
import itertools
import os
import sys
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from posttrain.sandbox import arrays, codec
from posttrain.sandbox.tester.evidence import Evidence
from posttrain.sandbox.tester.exceptions import OwnExceptions
from posttrain.sandbox.tester.objects import Handle


class SolutionGone(BaseException):
    """The solution room died or broke the protocol. No test may catch this as an ordinary exception."""


class ForgedFrame(SolutionGone):
    """What came is no answer: the room's own code would not have sent it."""


class Unjudgeable(SolutionGone):
    """The test's own data can't be handed to the solution: nobody's fault but the job's."""


class Solution:
    """One end of the pipe to the solution room. `evidence` is what the tests' text says of it."""

    def __init__(self, rpc: int, evidence: Evidence | None = None) -> None:
        self.evidence = evidence or Evidence()
        self._rpc = rpc
        self._lost: SolutionGone | None = None
        self._reached_in = False
        """Whether it has changed the tests' own values, or called their functions."""
        self._functions: list[Callable[..., Any]] = []
        self._handles: dict[tuple[int, bool], Handle] = {}
        self._local: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self._exceptions = OwnExceptions(self)

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
        except codec.TooLarge as error:
            raise self._too_large(error) from error
        except OSError as error:
            raise self._lose(SolutionGone(str(error))) from error

    def hang_up(self) -> None:
        """After the last test. Raises ForgedFrame if answers lie here that nothing asked for."""
        os.set_blocking(self._rpc, False)
        with contextlib.suppress(OSError):
            if os.read(self._rpc, 1):
                raise ForgedFrame("an answer that nothing asked for")

    def ask(self, op: str, target: Any, *rest: Any, producer: str = "") -> Any:
        """One request; the value that comes back. Raises what the solution raised."""
        return self._ask(op, target, *rest, producer=producer)[0]

    def _ask(self, op: str, target: Any, *rest: Any, producer: str) -> tuple[Any, Any]:
        self._send([op, target, self.evidence.is_object(producer), *rest])
        while True:
            frame = self._receive()
            if frame[0] == "callback" and len(frame) == 4:
                self._answer(self._call_back(*frame[1:], producer=producer))
            elif frame[0] == "ok" and len(frame) == 4:
                self._print(frame[3])
                return self.decode(frame[1], producer), frame[2]
            elif frame[0] == "raised" and len(frame) == 7:
                self._print(frame[6])
                self._raise(frame, op)
            elif frame[0] == "too_large":
                raise codec.TooLarge("the solution's value is too large")
            else:
                raise self._lose(ForgedFrame("malformed answer"))

    def _answer(self, data: list[Any]) -> None:
        try:
            self._send(data)
        except codec.TooLarge as error:  # it waits for an answer
            self._send(["raised", *self.told(error)])

    def _print(self, text: Any) -> None:
        if text and isinstance(text, str):
            sys.stdout.write(text)

    def _raise(self, frame: list[Any], op: str) -> NoReturn:
        try:
            error = self._exceptions.build(*frame[1:6], op=op)
        except codec.CodecError as wrong:
            raise self._lose(ForgedFrame(str(wrong))) from wrong
        raise error

    def _call_back(self, number: Any, args: Any, kwargs: Any, *, producer: str) -> list[Any]:
        known = type(number) is int and 0 <= number < len(self._functions)
        if not known or not isinstance(args, list) or not isinstance(kwargs, dict):
            raise self._lose(ForgedFrame("malformed callback"))
        given = [self.decode(a, producer) for a in args]
        named = {k: self.decode(a, producer) for k, a in kwargs.items()}
        self._reached_in = True
        try:
            return ["ok", self.encode(self._functions[number](*given, **named))]
        except Exception as error:  # noqa: BLE001  the test's own function, called with the solution's values
            return ["raised", *self.told(error)]

    def told(self, error: BaseException | None) -> tuple[str, str]:
        """An exception as the solution may know it: (built-in class or nothing, text)."""
        if error is None:
            return "", ""
        name = next((k.__name__ for k in type(error).__mro__ if vars(builtins).get(k.__name__) is k), "Exception")
        return name, "" if isinstance(error, AssertionError) else str(error)[:300]

    def call(self, number: int, args: tuple[Any, ...], kwargs: dict[str, Any], *, producer: str) -> Any:
        """Calls the object behind handle `number`. Its arguments are changed in place, deeply, as it changed them."""
        encoded, named = [self.encode(a) for a in args], {k: self.encode(v) for k, v in kwargs.items()}
        value, changed = self._ask("call", number, encoded, named, producer=producer)
        if changed is not None:
            self._reached_in = self.evidence.has_text  # else each test's arguments are its own
            try:
                after, named_after = changed
                for argument, data in [
                    *zip(args, after, strict=True),
                    *((kwargs[k], v) for k, v in named_after.items()),
                ]:
                    if data is not None:
                        mirror(argument, self.decode(data, producer))
            except (TypeError, ValueError, KeyError, AttributeError) as error:
                raise self._lose(ForgedFrame("malformed answer")) from error
        return value

    def capture(self) -> None:
        """From now on, what the solution prints is printed here."""
        self.ask("capture", None)

    # ------------------------------------------------------------ values

    def encode(self, value: Any) -> Any:
        """What crosses to the solution. Raises Unjudgeable if it can't, or TooLarge if that may be its own doing."""
        try:
            return self.plain(value)
        except codec.TooLarge as error:
            raise self._too_large(error) from error
        except codec.CodecError as error:
            raise self.unjudgeable(f"the tests can't be handed over: {error}") from error

    def plain(self, value: Any) -> Any:
        """`encode`, but raises CodecError."""
        return codec.encode(value, self._to_handle)

    def unjudgeable(self, reason: str) -> SolutionGone:
        """What to raise where the tests ask for what can't be done here."""
        return self._lose(Unjudgeable(reason))

    def _too_large(self, error: codec.CodecError) -> BaseException:
        if self._reached_in or self.evidence.feeds_back:
            return error
        return self.unjudgeable(f"an argument in the tests is too large for the sandbox: {error}")

    def decode(self, data: Any, producer: str = "") -> Any:
        """What the solution sent, as `producer` gave it. Raises SolutionGone if it is nonsense."""
        try:
            return codec.decode(data, lambda parts: self._from_handle(parts, producer))
        except codec.CodecError as error:
            raise self._lose(ForgedFrame(str(error))) from error

    def _to_handle(self, value: Any) -> list[Any] | None:
        if type(value) is Handle:
            return ["handle", object.__getattribute__(value, "_number"), ""]
        number = self._exceptions.number_of(value)
        if number is None and isinstance(value, types.CoroutineType | types.GeneratorType | types.AsyncGeneratorType):
            number = self._local.get(value)
        if number is not None:
            return ["handle", number, ""]
        if isinstance(value, BaseException):
            return ["error", *self.told(value)]
        if isinstance(value, Iterator) and type(value).__module__ in ("builtins", "itertools"):
            items = list(itertools.islice(value, codec.MAX_ITEMS + 1))
            if len(items) > codec.MAX_ITEMS:
                raise codec.TooLarge(f"more than {codec.MAX_ITEMS} items of an iterator can't be passed on")
            return ["iterator", *map(self.plain, items)]
        name = getattr(value, "__name__", "")
        if isinstance(value, types.BuiltinFunctionType | type) and vars(builtins).get(name) is value:
            return ["builtin", name]
        if (
            isinstance(value, types.FunctionType | types.BuiltinFunctionType | types.MethodType | type)
            or (callable(value) and type(value).__module__ in ("functools", "operator"))
            or (
                # As a function; one that was given methods can't cross.
                type(value).__module__ == "unittest.mock" and not vars(value).get("_mock_children")
            )
        ):
            self._functions.append(value)
            return ["function", len(self._functions) - 1, str(getattr(value, "__name__", "function"))]
        return None

    def _from_handle(self, data: list[Any], producer: str) -> Any:
        if data[0] == "exception" and len(data) == 2:
            return self._exceptions.classes(data[1])[0]
        if data[0] == "function" and len(data) == 2 and type(data[1]) is int and 0 <= data[1] < len(self._functions):
            return self._functions[data[1]]
        if len(data) != 3 or data[0] != "handle" or type(data[1]) is not int or not isinstance(data[2], str):
            raise codec.CodecError("malformed frame")
        return self.stand_in(data[1], data[2], producer)

    def stand_in(self, number: int, kind: str, producer: str) -> Any:
        """What stands here for the solution's value `number`: the same each time, so that `is` tells the truth. But a
        number that is known as an object from elsewhere is none where none is due.
        """
        if kind in _LOCAL:
            made = _LOCAL[kind](self, number, producer)
            self._local[made] = number
            return made
        key = number, self.evidence.is_object(producer)
        if key not in self._handles:
            self._handles[key] = Handle(self, number, kind, producer)
        return self._handles[key]


async def _coroutine(solution: Solution, number: int, producer: str) -> Any:
    return solution.ask("await", number, producer=producer)


def _generator(solution: Solution, number: int, producer: str) -> Any:
    sent = None
    for _ in range(codec.MAX_ITEMS):
        op, rest = ("next", ()) if sent is None else ("send", (solution.encode(sent),))
        try:
            value = solution.ask(op, number, *rest, producer=producer)
        except StopIteration as end:
            return end.value
        sent = yield value
    raise codec.TooLarge(f"more than {codec.MAX_ITEMS} items drawn from an iterator")


async def _async_generator(solution: Solution, number: int, producer: str) -> Any:
    for _ in range(codec.MAX_ITEMS):
        try:
            value = solution.ask("anext", number, producer=producer)
        except StopAsyncIteration:
            return
        yield value
    raise codec.TooLarge(f"more than {codec.MAX_ITEMS} items drawn from an iterator")


_LOCAL: dict[str, Callable[[Solution, int, str], Any]] = {
    "coroutine": _coroutine,
    "generator": _generator,
    "async_generator": _async_generator,
}


def mirror(target: Any, value: Any) -> None:
    """Makes `target` equal `value` in place; what it holds keeps its identity where it stays of its kind."""
    if isinstance(target, list) and isinstance(value, list):
        target[:] = [_kept(o, v) for o, v in zip(target, value, strict=False)] + value[len(target) :]
    elif isinstance(target, dict) and isinstance(value, dict):
        after = {k: _kept(target.get(k), v) for k, v in value.items()}
        target.clear()
        target.update(after)
    elif isinstance(target, set | collections.deque) and isinstance(value, type(target)):
        target.clear()
        (target.update if isinstance(target, set) else target.extend)(value)
    elif isinstance(target, bytearray) and isinstance(value, bytearray):
        target[:] = value
    elif arrays.is_array(target) and arrays.is_array(value) and target.shape == value.shape:
        target[...] = value
    elif isinstance(target, tuple) and isinstance(value, tuple):
        for old, new in zip(target, value, strict=False):
            mirror(old, new)


def _kept(old: Any, new: Any) -> Any:
    for kind in (list, dict, set, bytearray, collections.deque, tuple):
        if isinstance(old, kind) and isinstance(new, kind):
            mirror(old, new)
            return old if kind is not tuple or old == new else new
    if arrays.is_array(old) and arrays.is_array(new) and old.shape == new.shape:
        mirror(old, new)
        return old
    return new
