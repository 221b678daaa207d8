"""Exceptions of the solution as the tests meet them: built-in ones by name, its own as classes made here.

`except BankError` needs a class. One is made for each exception class of the solution, below the nearest built-in one;
its instances stand for the solution's. A solution can't raise AssertionError or leave the tests: those mean something
here. Nor can it end the tests' own loops, where nothing was compared yet (as PEP 479 has it for generators).
"""

from __future__ import annotations

import builtins
from typing import TYPE_CHECKING, Any

from posttrain.sandbox import codec

if TYPE_CHECKING:
    from posttrain.sandbox.tester.handles import Solution

_NEVER_RAISED = ("AssertionError", "SystemExit", "KeyboardInterrupt", "GeneratorExit")
_BUILTIN: dict[str, type[Exception]] = {
    name: kind
    for name, kind in vars(builtins).items()
    if isinstance(kind, type) and issubclass(kind, Exception) and name not in _NEVER_RAISED
}
_ENDS = ("next", "send", "anext")
_MOST = 20
_UNTRUSTED = ""
"""Producer of what stands behind an exception: no object, whatever the tests call it. Its name is the solution's."""


class OwnExceptions:
    """The classes made so far."""

    def __init__(self, solution: Solution) -> None:
        self._solution = solution
        self._made: dict[int, type[Exception]] = {}

    def number_of(self, value: Any) -> int | None:
        """The solution's number of one of these classes, or of what stands for an instance; None for anything else."""
        if isinstance(value, type) and issubclass(value, Exception):
            return next((n for n, kind in self._made.items() if kind is value), None)
        stand_in = vars(value).get("_stand_in") if isinstance(value, Exception) else None
        return None if stand_in is None else int(object.__getattribute__(stand_in, "_number"))

    def classes(self, chain: Any) -> list[type[Exception]]:
        """The classes of `chain`: [[number, name, built-in class], ...] from the lowest up. Raises CodecError."""
        if not isinstance(chain, list) or not 0 < len(chain) <= _MOST:
            raise codec.CodecError("malformed exception")
        found: list[type[Exception]] = []
        for entry in reversed(chain):
            if not isinstance(entry, list) or [type(v) for v in entry] != [int, str, str]:
                raise codec.CodecError("malformed exception")
            number, name, builtin = entry
            if number not in self._made:
                self._made[number] = self._make(number, name, _BUILTIN.get(builtin, RuntimeError), found[-1:])
            found.append(self._made[number])
        return found[::-1]

    def _make(self, number: int, name: str, builtin: type[Exception], above: list[type[Exception]]) -> type[Exception]:
        solution = self._solution

        def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
            Exception.__init__(self, *args)
            self._stand_in = solution.call(number, args, kwargs, producer=_UNTRUSTED)

        def __getattr__(self: Any, attribute: str) -> Any:
            if attribute.startswith("_"):
                raise AttributeError(attribute)
            return getattr(self._stand_in, attribute)

        def __str__(self: Any) -> str:
            return str(self.__dict__.get("_text") or self._stand_in)

        body = {"__init__": __init__, "__getattr__": __getattr__, "__str__": __str__, "__module__": "solution"}
        bases = tuple(above) if above and issubclass(above[0], builtin) else (*above, builtin)
        try:
            return type(name, bases, body)
        except (TypeError, ValueError):  # layouts that don't go together, or no name for a class
            return type("Exception_", tuple(above) or (Exception,), body)

    def build(self, builtin: Any, text: Any, chain: Any, instance: Any, args: Any, *, op: str) -> Exception:
        """What to raise for what the solution raised. Raises CodecError if that is malformed."""
        if not isinstance(builtin, str) or not isinstance(text, str) or not isinstance(chain, list):
            raise codec.CodecError("malformed exception")
        decoded = [self._solution.decode(a) for a in args] if isinstance(args, list) else [text]
        if chain and type(instance) is int:
            error = self._own(self.classes(chain)[0], text, instance, decoded)
        else:
            error = _plain(_BUILTIN.get(builtin, RuntimeError), builtin, text, decoded)
        if isinstance(error, StopIteration | StopAsyncIteration) and op not in _ENDS:
            return RuntimeError(f"{builtin}: {text}")
        return error

    def _own(self, kind: type[Exception], text: str, instance: int, args: list[Any]) -> Exception:
        try:
            error = kind.__new__(kind, *args)
        except TypeError:
            return RuntimeError(text)
        error.args = tuple(args)
        prefix = f"{kind.__name__}: "
        stand_in = self._solution.stand_in(instance, kind.__name__, _UNTRUSTED)
        vars(error).update(_stand_in=stand_in, _text=text.removeprefix(prefix))
        return error


def _plain(kind: type[Exception], builtin: str, text: str, args: list[Any]) -> Exception:
    try:
        return kind(*args) if kind.__name__ == builtin else kind(f"{builtin}: {text}")
    except TypeError:  # UnicodeDecodeError and its like want more arguments
        return RuntimeError(f"{builtin}: {text}")
