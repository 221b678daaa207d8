"""Plain data on a pipe: how values cross between the rooms. No pickle; every size is capped.

A value is JSON: null, booleans, text, numbers as they are; anything else an array whose first item is a tag.
Instances of subclasses lose their class on the way, and with it a lying `__eq__`. What is no plain data at all
crosses as a handle: a number that only its own room can look up.

    [1, (2.5, "a")]   <->   ["list", 1, ["tuple", 2.5, "a"]]
"""

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
import json
import os
import struct
from collections.abc import Callable
from typing import Any

from posttrain.sandbox import arrays

MAX_FRAME = 8 << 20
"""Bytes of one frame between the rooms."""
MAX_NODES = 200_000
MAX_DEPTH = 200
MAX_ITEMS = 20_000
"""Items that may be drawn from one iterator of the other room."""

ToHandle = Callable[[Any], list[Any] | None]
"""Encodes what is no plain data as a tagged array; None if it can't cross."""
FromHandle = Callable[[list[Any]], Any]

_NATIVE_INT = 1 << 53
_TEXT_TAGS: dict[str, tuple[type, Callable[[str], Any]]] = {
    "Decimal": (decimal.Decimal, decimal.Decimal),
    "Fraction": (fractions.Fraction, fractions.Fraction),
    "datetime": (datetime.datetime, datetime.datetime.fromisoformat),
    "date": (datetime.date, datetime.date.fromisoformat),
    "time": (datetime.time, datetime.time.fromisoformat),
}
_VIEWS: tuple[type, ...] = (type({}.keys()), type({}.values()), type({}.items()))


class CodecError(ValueError):
    """A value is too large or too deep to cross, or a frame is malformed."""


class TooLarge(CodecError):
    """A value is over a cap: it might cross if it were smaller."""


class _Encoder:
    def __init__(self, to_handle: ToHandle | None, stays: Callable[[Any], bool] | None) -> None:
        self.to_handle = to_handle
        self.stays = stays
        self.nodes = 0

    def encode(self, value: Any, depth: int = 0) -> Any:
        self.nodes += 1
        if self.nodes > MAX_NODES or depth > MAX_DEPTH:
            raise TooLarge(f"a value of more than {MAX_NODES} parts, or more than {MAX_DEPTH} deep, can't be passed on")
        if value is None or value is True or value is False:
            return value
        kind = type(value)
        if self.stays is not None and self.to_handle is not None and self.stays(value):
            return self.to_handle(value)
        if isinstance(value, str):
            return value if kind is str else str.__str__(value)
        if isinstance(value, int):
            return self._int(int.__index__(value))
        if isinstance(value, float) and kind.__module__ != "numpy":
            return value if kind is float else float.__float__(value)
        return self._container(value, kind, depth + 1) or self._scalar(value)

    def _int(self, value: int) -> Any:
        if -_NATIVE_INT < value < _NATIVE_INT:
            return value
        if value.bit_length() > 4 * MAX_FRAME:
            raise TooLarge("the integer is too large to pass on")
        return ["int", format(value, "x")]

    def _container(self, value: Any, kind: type, depth: int) -> list[Any] | None:
        items = [self.encode(v, depth) for v in _items(value)] if _items(value) is not None else None
        if items is not None:
            return [_sequence_tag(value), *items]
        if isinstance(value, dict):
            tag = kind.__name__ if kind in (collections.Counter, collections.OrderedDict) else "dict"
            return [tag, *([self.encode(k, depth), self.encode(v, depth)] for k, v in dict.items(value))]
        if kind is _VIEWS[2]:
            return ["items", *([self.encode(k, depth), self.encode(v, depth)] for k, v in value)]
        return None

    def _scalar(self, value: Any) -> Any:
        if isinstance(value, bytes | bytearray):
            return ["bytes" if isinstance(value, bytes) else "bytearray", bytes(value).hex()]
        if isinstance(value, complex):
            return ["complex", value.real, value.imag]
        if type(value) is range:
            return ["range", *(self._int(v) for v in (value.start, value.stop, value.step))]
        if type(value) is slice:
            return ["slice", *(self.encode(v) for v in (value.start, value.stop, value.step))]
        if type(value) is datetime.timedelta:
            return ["timedelta", value.days, value.seconds, value.microseconds]
        if (array := arrays.pack(value)) is not None:
            return array
        for tag, (kind, _) in _TEXT_TAGS.items():
            if type(value) is kind:
                return [tag, value.isoformat() if hasattr(value, "isoformat") else str(value)]
        handle = self.to_handle(value) if self.to_handle else None
        if handle is None:
            raise CodecError(f"a {type(value).__name__} can't be passed on")
        return handle


def _items(value: Any) -> Any:
    """What a flat container holds; None if it is none. Methods of the base class: a subclass can't lie."""
    if isinstance(value, list):
        return list.__iter__(value)
    if isinstance(value, tuple):
        return tuple.__iter__(value)
    if isinstance(value, set):
        return set.__iter__(value)
    if isinstance(value, frozenset):
        return frozenset.__iter__(value)
    if isinstance(value, collections.deque):
        return collections.deque.__iter__(value)
    return iter(value) if type(value) in _VIEWS[:2] else None


def _sequence_tag(value: Any) -> str:
    for kind in (list, tuple, set, frozenset, collections.deque):
        if isinstance(value, kind):
            return kind.__name__
    return "keys" if type(value) is _VIEWS[0] else "values"


def encode(value: Any, to_handle: ToHandle | None = None, stays: Callable[[Any], bool] | None = None) -> Any:
    """`value` as JSON data; parts for which `stays` is true cross as handles. Raises CodecError if it can't cross, and
    TooLarge, which is one, if it is too large to.
    """
    return _Encoder(to_handle, stays).encode(value)


_SEQUENCES: dict[str, Callable[[list[Any]], Any]] = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "deque": collections.deque,
    "keys": lambda items: dict.fromkeys(items).keys(),
    "values": lambda items: dict(enumerate(items)).values(),
}
_MAPPINGS: dict[str, Callable[[dict[Any, Any]], Any]] = {
    "dict": lambda pairs: pairs,
    "Counter": collections.Counter,
    "OrderedDict": collections.OrderedDict,
    "items": lambda pairs: pairs.items(),
}


def decode(data: Any, from_handle: FromHandle, depth: int = 0) -> Any:
    """The value that `data` stands for. Raises CodecError on anything malformed: the sender may be hostile."""
    if data is None or isinstance(data, bool | int | float | str):
        return data
    if not isinstance(data, list) or not data or not isinstance(data[0], str) or depth > MAX_DEPTH + 1:
        raise CodecError("malformed frame")
    tag, rest = data[0], data[1:]
    try:
        if tag in _SEQUENCES:
            return _SEQUENCES[tag]([decode(v, from_handle, depth + 1) for v in rest])
        if tag in _MAPPINGS:
            pairs = {decode(k, from_handle, depth + 1): decode(v, from_handle, depth + 1) for k, v in rest}
            return _MAPPINGS[tag](pairs)
        if tag in _TEXT_TAGS:
            return _TEXT_TAGS[tag][1](rest[0])
        if tag == "int":
            return int(rest[0], 16)
        if tag == "bytes":
            return bytes.fromhex(rest[0])
        if tag == "bytearray":
            return bytearray.fromhex(rest[0])
        if tag == "complex":
            return complex(*rest)
        if tag == "range":
            return range(*(decode(v, from_handle, depth + 1) for v in rest))
        if tag in arrays.TAGS:
            return arrays.unpack(tag, *rest)
        if tag == "slice":
            return slice(*(decode(v, from_handle, depth + 1) for v in rest))
        if tag == "timedelta":
            return datetime.timedelta(*rest)
    except CodecError:
        raise
    except (TypeError, ValueError, ArithmeticError, IndexError) as error:
        raise CodecError("malformed frame") from error
    return from_handle(data)


# ---------------------------------------------------------------- frames


def _read_exactly(fd: int, size: int) -> bytes:
    buffer = bytearray()
    while len(buffer) < size:
        chunk = os.read(fd, min(1 << 20, size - len(buffer)))
        if not chunk:
            raise EOFError("the other side is gone")
        buffer += chunk
    return bytes(buffer)


def read_frame(fd: int, limit: int = MAX_FRAME) -> Any:
    """One length-prefixed JSON frame. Raises EOFError, OSError, or CodecError if oversized or malformed."""
    (size,) = struct.unpack("!I", _read_exactly(fd, 4))
    if size > limit:
        raise CodecError(f"a frame of {size} bytes; at most {limit} are taken")
    try:
        return json.loads(_read_exactly(fd, size))
    except (ValueError, RecursionError) as error:
        raise CodecError("malformed frame") from error


def frame(data: Any, limit: int = MAX_FRAME) -> bytes:
    """One length-prefixed JSON frame. Raises TooLarge if it has more than `limit` bytes, CodecError if it's no JSON."""
    try:
        body = json.dumps(data).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise CodecError(f"no plain data: {error}") from error
    if len(body) > limit:
        raise TooLarge(f"a value of {len(body)} bytes can't be passed on; {limit} are the most")
    return struct.pack("!I", len(body)) + body


def write_frame(fd: int, data: Any, limit: int = MAX_FRAME) -> None:
    """Writes one frame. Raises OSError, or CodecError if `data` is larger than `limit` bytes."""
    view = memoryview(frame(data, limit))
    while view:
        view = view[os.write(fd, view) :]
