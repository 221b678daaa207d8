"""Assembles classic BPF programs for seccomp: an allow list of system calls with checks on their arguments.

Every check compares the low 32 bits of an argument; `null` compares all 64. Both supported architectures are
little endian. Reference: kernel documentation, userspace-api/seccomp_filter.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Mapping, Sequence

_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO, _KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
_NUMBER_OFFSET, _ARCH_OFFSET, _ARGS_OFFSET = 0, 4, 16
_X32_BIT = 0x40000000

Body = list[bytes]
"""What happens to one system call: instructions that end in a verdict."""


def _op(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _argument(index: int, high: bool = False) -> bytes:
    return _op(_LOAD, _ARGS_OFFSET + 8 * index + (4 if high else 0))


def allow() -> Body:
    """The call goes through."""
    return [_op(_RETURN, _ALLOW)]


def refuse(error: int) -> Body:
    """The call returns -1 with this errno and has no effect."""
    return [_op(_RETURN, _ERRNO | error)]


def one_of(index: int, values: Sequence[int], error: int) -> Body:
    """Allowed if the argument is one of `values`."""
    body = [_argument(index)]
    for value in values:
        body += [_op(_JUMP_EQUAL, value, 0, 1), *allow()]
    return body + refuse(error)


def without_bits(index: int, bits: int, error: int) -> Body:
    """Allowed if none of `bits` is set in the argument."""
    return [_argument(index), _op(_JUMP_BITS, bits, 0, 1), *refuse(error), *allow()]


def thread_only(index: int, needed: int, forbidden: int, error: int) -> Body:
    """Allowed if `needed` is set and none of `forbidden` is."""
    head = [_argument(index), _op(_JUMP_BITS, forbidden, 0, 1), *refuse(error)]
    return [*head, _op(_JUMP_BITS, needed, 0, 1), *allow(), *refuse(error)]


def null(index: int, error: int) -> Body:
    """Allowed if the argument, a pointer, is NULL."""
    low = [_argument(index), _op(_JUMP_EQUAL, 0, 1, 0), *refuse(error)]
    return [*low, _argument(index, high=True), _op(_JUMP_EQUAL, 0, 1, 0), *refuse(error), *allow()]


def assemble(audit_arch: int, rules: Mapping[int, Body], has_x32: bool) -> bytes:
    """The whole filter. A call that no rule names gets EPERM, so that honest optional calls degrade.

    A foreign architecture kills the process: its numbers mean other calls.
    """
    program = [_op(_LOAD, _ARCH_OFFSET), _op(_JUMP_EQUAL, audit_arch, 1, 0), _op(_RETURN, _KILL_PROCESS)]
    program.append(_op(_LOAD, _NUMBER_OFFSET))
    if has_x32:  # x86-64 has a second table of the same calls above this bit
        program += [_op(_JUMP_AT_LEAST, _X32_BIT, 0, 1), *refuse(errno.ENOSYS)]
    for number, body in sorted(rules.items()):
        program += [_op(_JUMP_EQUAL, number, 0, len(body)), *body]
    return b"".join(program + refuse(errno.EPERM))
