"""Arrays and numbers of numpy as plain data, where it is preloaded: bytes with a type and a shape, nothing else.

    array([1, 2])   <->   ["ndarray", "<i8", [2], "01000000000000000200000000000000"]

Arrays of objects are none: they cross as handles do.
"""

from __future__ import annotations

import re
import sys
from typing import Any

TAGS = ("ndarray", "number")
_TYPE = re.compile(r"[<>|=][biufcUS]\d{1,6}")
_MOST_DIMENSIONS = 16


def _numpy() -> Any:
    return sys.modules.get("numpy")


def is_array(value: Any) -> bool:
    """Whether it is an array of numpy's, or of a class below."""
    numpy = _numpy()
    return numpy is not None and isinstance(value, numpy.ndarray)


def is_scalar(value: Any) -> bool:
    """Whether it is a number of numpy's own."""
    numpy = _numpy()
    return numpy is not None and isinstance(value, numpy.generic)


def attributes() -> tuple[frozenset[str], ...]:
    """What arrays offer; empty without numpy."""
    numpy = _numpy()
    return () if numpy is None else (frozenset(name for name in dir(numpy.ndarray) if not name.startswith("_")),)


def pack(value: Any) -> list[Any] | None:
    """The tagged list of an array or number; None for anything else."""
    if not (is_array(value) or is_scalar(value)):
        return None
    plain = _numpy().array(value, subok=False)
    if not _TYPE.fullmatch(plain.dtype.str):
        return None
    return [TAGS[is_scalar(value)], plain.dtype.str, list(plain.shape), plain.tobytes().hex()]


def unpack(tag: str, kind: Any, shape: Any, data: Any) -> Any:
    """What `pack` took. Raises ValueError or TypeError if that is malformed: the sender may be hostile."""
    numpy = _numpy()
    if numpy is None or not _TYPE.fullmatch(kind) or not isinstance(shape, list) or len(shape) > _MOST_DIMENSIONS:
        raise ValueError("no array")
    if not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("no shape")
    array = numpy.frombuffer(bytes.fromhex(data), dtype=kind).reshape(shape).copy()
    return array if tag == TAGS[0] else array[()]
