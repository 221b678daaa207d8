"""A stand-in, in the tester room, for an object that lives in the solution room.

What it may do depends on what the tests' text says of whoever produced it (see `evidence`):

- An object of the solution's own may do what its class can: methods of any name, operators, `in`, `[]`, comparison
  with plain data. Where it extends a plain type, equality with plain data is decided here, on its value.
- Anything else has only attributes that no plain type has, can be called, awaited, told as text, and drawn from once.
  It equals nothing but itself and another stand-in: arithmetic, `in`, `[]` or `startswith` would tell the solution
  what the test expects, or let it answer for the test. What is named like a class may also say its length, its items
  and what number it is, and give another object where it meets an operand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from posttrain.sandbox import codec

if TYPE_CHECKING:
    from posttrain.sandbox.tester.handles import Solution

_DUNDERS = ("__name__", "__qualname__", "__annotations__", "__wrapped__", "__dict__", "__members__", "__defaults__",
            "__slots__", "__match_args__", "__total__")  # fmt: skip


_UNKNOWN = "?"
"""The producer of what has seen an operand of the test's."""


class Handle:
    """An object of the solution, by number."""

    __slots__ = ("__weakref__", "_drawn", "_is_object", "_iterated", "_kind", "_number", "_producer", "_solution")
    _solution: Solution
    _number: int
    _kind: str
    _producer: str
    _is_object: bool
    _drawn: int
    _iterated: bool

    def __init__(self, solution: Solution, number: int, kind: str, producer: str) -> None:
        for name, value in (
            ("_solution", solution), ("_number", number), ("_kind", kind), ("_producer", producer),
            ("_is_object", solution.evidence.is_object(producer)), ("_drawn", 0), ("_iterated", False),
        ):  # fmt: skip
            object.__setattr__(self, name, value)

    def _ask(self, op: str, *rest: Any, producer: str | None = None) -> Any:
        return self._solution.ask(op, self._number, *rest, producer=producer or self._producer)

    def _operate(self, op: str, *rest: Any) -> Any:
        """`Vector(1, 2) * 2`: what is named like a class may give another object, and no plain data, since the operand
        may be what the test expects.
        """
        if not self._solution.evidence.is_named_like_a_class(self._producer):
            return NotImplemented
        found = self._ask(op, *rest, producer=_UNKNOWN)
        return found if type(found) is Handle else NotImplemented

    def _is_named(self) -> bool:
        """Whether it may say of itself what gives away nothing that the test expects: its length, an item, a number."""
        return self._is_object or self._solution.evidence.is_named_like_a_class(self._producer)

    def _trusted(self, what: str) -> None:
        if not self._is_named():
            raise TypeError(f"{self._producer.lstrip('=')} gave a {self._kind}, and the test asks it for {what}")

    # ------------------------------------------------------------ attributes, calls

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in _DUNDERS:
            raise AttributeError(name)
        if not self._is_object and name in self._solution.evidence.plain_names:
            raise AttributeError(f"{self._producer.lstrip('=')} gave a {self._kind}, and the test asks it for {name!r}")
        return self._ask("attribute", name, producer=f"={name}")

    def __setattr__(self, name: str, value: Any) -> None:
        self._ask("set_attribute", name, self._solution.encode(value))

    def __delattr__(self, name: str) -> None:
        self._ask("delattr", name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._solution.call(self._number, args, kwargs, producer=self._producer.lstrip("="))

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        raise self._solution.unjudgeable("the tests extend a class of the solution's, which lives in another process")

    # ------------------------------------------------------------ containers

    def __getitem__(self, key: Any) -> Any:
        self._trusted("an item")
        return self._ask("getitem", self._solution.encode(key))

    def __setitem__(self, key: Any, value: Any) -> None:
        self._trusted("an item")
        self._ask("set_item", self._solution.encode(key), self._solution.encode(value))

    def __delitem__(self, key: Any) -> None:
        self._trusted("an item")
        self._ask("delitem", self._solution.encode(key))

    def __len__(self) -> int:
        self._trusted("its length")
        return self._ask("len")

    def __contains__(self, item: Any) -> bool:
        if self._is_object:
            return self._ask("contains", self._solution.encode(item)) is True
        return any(item is v or item == v for v in self)

    def __iter__(self) -> Iterator[Any]:
        if self._iterated and not self._is_object:
            raise TypeError(f"what {self._producer.lstrip('=')} gave is no list: it can be gone through once")
        object.__setattr__(self, "_iterated", True)
        found = self._ask("iter")
        return found if type(found) is Handle else iter(found)

    def __reversed__(self) -> Any:
        self._trusted("its reverse")
        return self._ask("reversed")

    def __next__(self) -> Any:
        if self._drawn >= codec.MAX_ITEMS:
            raise codec.TooLarge(f"more than {codec.MAX_ITEMS} items drawn from an iterator")
        object.__setattr__(self, "_drawn", self._drawn + 1)
        return self._ask("next")

    # ------------------------------------------------------------ text, truth, numbers

    def __str__(self) -> str:
        return str(self._ask("str"))

    def __repr__(self) -> str:
        return str(self._ask("repr"))

    def __format__(self, spec: str) -> str:
        return str(self._ask("format", spec)) if self._is_named() else format(str(self), spec)

    def __bool__(self) -> bool:
        return self._ask("bool") is True if self._is_named() and not self._producer.startswith("=") else True

    def __hash__(self) -> int:
        found = self._ask("hash") if self._is_named() else self._number
        return found if isinstance(found, int) else self._number

    def __round__(self, digits: int | None = None) -> Any:
        self._trusted("a number")
        return self._ask("round", digits)

    def __copy__(self) -> Any:
        return self._ask("copy")

    def __deepcopy__(self, memo: object) -> Any:
        return self._ask("deepcopy")

    # ------------------------------------------------------------ comparison

    def _compare(self, name: str, other: Any) -> Any:
        if type(other) is Handle:
            if other._kind != self._kind and not (self._is_object and other._is_object):
                return NotImplemented
        elif not self._is_object or not self._solution.evidence.is_class(self._producer):
            return NotImplemented
        try:
            data = self._solution.plain(other)
        except codec.CodecError:  # nothing that the solution could know
            return NotImplemented
        return self._ask(name, data) is True

    def __eq__(self, other: object) -> Any:
        if type(other) is Handle:
            return True if other._number == self._number else self._compare("eq", other)
        if self._is_object:
            flat = self._solution.ask("flat", self._number)
            if isinstance(flat, list) and flat:
                return flat[0] == other
        return self._compare("eq", other)

    def __lt__(self, other: Any) -> Any:
        return self._compare("lt", other)

    def __le__(self, other: Any) -> Any:
        return self._compare("le", other)

    def __gt__(self, other: Any) -> Any:
        return self._compare("gt", other)

    def __ge__(self, other: Any) -> Any:
        return self._compare("ge", other)

    def __instancecheck__(self, instance: Any) -> bool:
        return type(instance) is Handle and self._ask("isinstance", self._solution.encode(instance)) is True

    def __subclasscheck__(self, kind: Any) -> bool:
        return type(kind) is Handle and self._ask("issubclass", self._solution.encode(kind)) is True

    # ------------------------------------------------------------ with

    def __enter__(self) -> Any:
        return self._ask("method", "__enter__", [], {})

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        ended = self._ask("exit", *self._solution.told(error)) is True
        return ended and self._may_end(error)

    async def __aenter__(self) -> Any:
        return await self._ask("method", "__aenter__", [], {})

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        ended = await self._ask("method", "__aexit__", [None, None, None], {}) is True
        return ended and self._may_end(error)

    def _may_end(self, error: BaseException | None) -> bool:
        return isinstance(error, Exception) and not isinstance(error, AssertionError) and (
            self._solution.evidence.may_suppress
        )  # fmt: skip

    def __await__(self) -> Any:
        return self._ask("await")
        yield  # a generator, as an awaitable has to be


def _binary(name: str) -> Callable[[Handle, Any], Any]:
    def operate(self: Handle, other: Any) -> Any:
        # With two of the solution's own objects there is nothing of the test's to learn.
        if self._is_object or type(other) is Handle:
            return self._ask(name, self._solution.encode(other))
        return self._operate(name, self._solution.encode(other))

    return operate


def _reflected(name: str) -> Callable[[Handle, Any], Any]:
    def operate(self: Handle, other: Any) -> Any:
        ask = self._ask if self._is_object else self._operate
        return ask("reflected", name, self._solution.encode(other))

    return operate


def _unary(name: str) -> Callable[[Handle], Any]:
    def operate(self: Handle) -> Any:
        self._trusted("a number")
        return self._ask(name)

    return operate


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and_", "or_", "xor", "lshift",
              "rshift", "divmod"):  # fmt: skip
    _plain = _name.rstrip("_")
    setattr(Handle, f"__{_plain}__", _binary(_name))
    setattr(Handle, f"__r{_plain}__", _reflected(_name))
    if _name != "divmod":
        setattr(Handle, f"__i{_plain}__", _binary(f"i{_plain}"))
for _name in ("abs", "neg", "pos", "invert", "int", "float", "complex", "index"):
    setattr(Handle, f"__{_name}__", _unary(_name))
for _name in ("doc",):  # the class has one of its own, which hides the object's
    setattr(Handle, f"__{_name}__", property(lambda self: self._ask("attribute", "__doc__")))
