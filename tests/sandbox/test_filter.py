"""The seccomp program, run by an interpreter of classic BPF here: so both architectures are tested on any machine."""

from __future__ import annotations

import errno
import os
import struct

import pytest

from posttrain.sandbox.isolation import bpf
from posttrain.sandbox.isolation.syscalls import ARCHITECTURES, room_filter

ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
THREAD = 0x00010000 | 0x00000100 | 0x00000800  # CLONE_THREAD, CLONE_VM, CLONE_SIGHAND
NEW_USER, NEW_PID = 0x10000000, 0x20000000


def decide(program: bytes, audit: int, number: int, *arguments: int) -> int:
    """What the kernel would do with this call (struct seccomp_data: nr, arch, instruction pointer, six arguments)."""
    data = struct.pack("<IIQ6Q", number, audit, 0, *arguments, *[0] * (6 - len(arguments)))
    instructions = list(struct.iter_unpack("<HBBI", program))
    accumulator, at = 0, 0
    while True:
        code, if_true, if_false, value = instructions[at]
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif code == 0x06:
            return int(value)
        else:
            tests = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}
            at += if_true if tests[code] else if_false


NUMBERS = {
    "x86_64": {"read": 0, "openat": 257, "openat2": 437, "clone": 56, "clone3": 435, "ioctl": 16, "prlimit64": 302,
               "sendto": 44, "socketpair": 53, "fcntl": 72, "prctl": 157, "socket": 41, "execve": 59, "kill": 62,
               "ptrace": 101, "mount": 165, "bpf": 321, "io_uring_setup": 425, "memfd_create": 319, "unshare": 272},
    "aarch64": {"read": 63, "openat": 56, "openat2": 437, "clone": 220, "clone3": 435, "ioctl": 29, "prlimit64": 261,
                "sendto": 206, "socketpair": 199, "fcntl": 25, "prctl": 167, "socket": 198, "execve": 221, "kill": 129,
                "ptrace": 117, "mount": 40, "bpf": 280, "io_uring_setup": 425, "memfd_create": 279, "unshare": 97},
}  # fmt: skip
REFUSED = ("socket", "execve", "kill", "ptrace", "mount", "bpf", "io_uring_setup", "memfd_create", "unshare")
CALLS: list[tuple[str, tuple[int, ...], int]] = [
    ("read", (), 0),
    ("clone", (THREAD,), 0),
    ("clone", (17,), errno.EPERM),
    ("clone", (THREAD | NEW_USER,), errno.EPERM),
    ("clone", (THREAD | NEW_PID,), errno.EPERM),
    ("clone3", (), errno.ENOSYS),
    ("openat2", (), errno.ENOSYS),
    ("openat", (0, 0, os.O_RDONLY | os.O_CLOEXEC), 0),
    ("openat", (0, 0, os.O_WRONLY), errno.EACCES),
    ("openat", (0, 0, os.O_RDONLY | os.O_CREAT), errno.EACCES),
    ("openat", (0, 0, os.O_RDONLY | os.O_TRUNC), errno.EACCES),
    ("ioctl", (0, 0x5421), 0),
    ("ioctl", (0, 0x5412), errno.ENOTTY),  # TIOCSTI types into the terminal
    ("prlimit64", (0,), 0),
    ("prlimit64", (1,), errno.EPERM),
    ("sendto", (3, 0, 0, 0, 0), 0),
    ("sendto", (3, 0, 0, 0, 0x1000), errno.EPERM),
    ("sendto", (3, 0, 0, 0, 1 << 32), errno.EPERM),
    ("socketpair", (1,), 0),
    ("socketpair", (2,), errno.EPERM),
    ("fcntl", (0, 3), 0),
    ("fcntl", (0, 8), errno.EPERM),
    ("prctl", (15,), 0),
    ("prctl", (4,), errno.EPERM),
    *((name, (), errno.EPERM) for name in REFUSED),
]


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize(("name", "arguments", "error"), CALLS)
def test_each_call_meets_its_rule(machine: str, name: str, arguments: tuple[int, ...], error: int) -> None:
    arch = ARCHITECTURES[machine]
    program = room_filter(arch, files=True)
    assert decide(program, arch.audit, NUMBERS[machine][name], *arguments) == (ERRNO | error if error else ALLOW)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_without_files_nothing_is_opened(machine: str) -> None:
    arch = ARCHITECTURES[machine]
    program = room_filter(arch, files=False)
    assert decide(program, arch.audit, NUMBERS[machine]["openat"], 0, 0, os.O_RDONLY) == ERRNO | errno.EACCES


def test_a_foreign_table_of_calls_is_no_way_in() -> None:
    x86, arm = ARCHITECTURES["x86_64"], ARCHITECTURES["aarch64"]
    assert decide(room_filter(x86, files=True), arm.audit, 63) == KILL
    assert decide(room_filter(x86, files=True), 0x40000003, 3) == KILL  # i386, by int 0x80
    assert decide(room_filter(x86, files=True), x86.audit, 0x40000000) == ERRNO | errno.ENOSYS  # x32


def test_an_unlisted_call_is_refused_and_jumps_stay_in_the_program() -> None:
    for arch in ARCHITECTURES.values():
        program = room_filter(arch, files=True)
        for number in range(600):
            decide(program, arch.audit, number)
        assert decide(program, arch.audit, 599) == ERRNO | errno.EPERM
    assert decide(bpf.assemble(1, {}, False), 1, 0) == ERRNO | errno.EPERM
