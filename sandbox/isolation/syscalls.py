"""System call numbers of the two supported architectures, and which of them a room may use."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from posttrain.sandbox.isolation import bpf

# name: (x86-64, aarch64); None where the architecture has no such call.
_PLAIN: dict[str, tuple[int | None, int | None]] = {
    # files that are open already, and looking around
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "fstat": (5, 80), "stat": (4, None),
    "lstat": (6, None), "lseek": (8, 62), "pread64": (17, 67), "pwrite64": (18, 68), "readv": (19, 65),
    "writev": (20, 66), "access": (21, None), "dup": (32, 23), "dup2": (33, None), "dup3": (292, 24),
    "getdents": (78, None), "getdents64": (217, 61), "getcwd": (79, 17), "chdir": (80, 49),
    "readlink": (89, None), "umask": (95, 166), "newfstatat": (262, 79), "readlinkat": (267, 78),
    "faccessat": (269, 48), "faccessat2": (439, 439), "statx": (332, 291), "pipe2": (293, 59),
    # memory
    "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215), "brk": (12, 214), "mremap": (25, 216),
    "msync": (26, 227), "mincore": (27, 232), "madvise": (28, 233), "membarrier": (324, 283),
    # signals to oneself, threads
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132), "futex": (202, 98), "set_robust_list": (273, 99),
    "get_robust_list": (274, 100), "set_tid_address": (218, 96), "rseq": (334, 293),
    "arch_prctl": (158, None), "sched_yield": (24, 124), "exit": (60, 93), "exit_group": (231, 94),
    "wait4": (61, 260), "pause": (34, None),
    # time
    "nanosleep": (35, 101), "getitimer": (36, 102), "setitimer": (38, 103), "alarm": (37, None),
    "gettimeofday": (96, 169), "time": (201, None), "times": (100, 153), "clock_gettime": (228, 113),
    "clock_getres": (229, 114), "clock_nanosleep": (230, 115),
    # waiting
    "select": (23, None), "pselect6": (270, 72), "poll": (7, None), "ppoll": (271, 73),
    "epoll_create": (213, None), "epoll_create1": (291, 20), "epoll_ctl": (233, 21),
    "epoll_wait": (232, None), "epoll_pwait": (281, 22), "epoll_pwait2": (441, 441),
    "eventfd": (284, None), "eventfd2": (290, 19), "recvfrom": (45, 207),
    # who and where am I
    "getpid": (39, 172), "gettid": (186, 178), "getppid": (110, 173), "getuid": (102, 174),
    "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177), "getgroups": (115, 158),
    "getpgrp": (111, None), "getpgid": (121, 155), "getsid": (124, 156), "uname": (63, 160),
    "sysinfo": (99, 179), "getrusage": (98, 165), "getrlimit": (97, 163), "setrlimit": (160, 164),
    "sched_getaffinity": (204, 123), "sched_getparam": (143, 121), "sched_getscheduler": (145, 120),
    "sched_get_priority_max": (146, 125), "sched_get_priority_min": (147, 126), "getrandom": (318, 278),
}  # fmt: skip

_CHECKED: dict[str, tuple[int | None, int | None]] = {
    "open": (2, None), "openat": (257, 56), "openat2": (437, 437), "clone": (56, 220),
    "clone3": (435, 435), "ioctl": (16, 29), "fcntl": (72, 25), "socketpair": (53, 199),
    "sendto": (44, 206), "prlimit64": (302, 261), "prctl": (157, 167),
}  # fmt: skip

_NETWORK: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198), "connect": (42, 203), "sendto": (44, 206), "sendmsg": (46, 211), "recvmsg": (47, 212),
    "shutdown": (48, 210), "getsockname": (51, 204), "getpeername": (52, 205), "setsockopt": (54, 208),
    "getsockopt": (55, 209), "recvmmsg": (299, 243), "sendmmsg": (307, 269),
}  # fmt: skip
"""What a client of the network needs; no server's bind, listen and accept."""

_CLONE_THREAD = 0x00010000
NEW_NAMESPACES = 0x7E020000
"""Flags of clone that make namespaces."""
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | 0o20000000  # the last: O_TMPFILE
_FIONBIO, _FIOCLEX = 0x5421, 0x5451  # asyncio needs these two
_FCNTL = (0, 1, 2, 3, 4, 5, 6, 7, 1030, 1032)  # dup, flags, locks, pipe size; not F_SETOWN and its kin
_PR_SET_NAME, _PR_GET_NAME = 15, 16
_AF_UNIX, _AF_INET, _AF_INET6 = 1, 2, 10


@dataclass(frozen=True)
class Architecture:
    """What differs between machines. `column` picks from the tables above."""

    column: int
    audit: int
    has_x32: bool
    clone: int
    unshare: int
    capset: int
    mount: int


ARCHITECTURES = {
    "x86_64": Architecture(column=0, audit=0xC000003E, has_x32=True, clone=56, unshare=272, capset=126, mount=165),
    "aarch64": Architecture(column=1, audit=0xC00000B7, has_x32=False, clone=220, unshare=97, capset=91, mount=40),
}
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446  # the same everywhere


def architecture() -> Architecture | None:
    """This machine's row, or None if the filter has no table for it (then nothing is run)."""
    return ARCHITECTURES.get(os.uname().machine)


def room_filter(arch: Architecture, *, files: bool, network: bool = False) -> bytes:
    """The seccomp program of a room. `files`: it may open files to read (Landlock says which); `network`: connect."""
    return bpf.assemble(arch.audit, room_rules(arch, files=files, network=network), arch.has_x32)


def room_rules(arch: Architecture, *, files: bool, network: bool = False) -> dict[int, bpf.Body]:
    """What `room_filter` is made of: a verdict on each call by its number."""
    checks: dict[str, bpf.Body] = {
        "open": bpf.refuse(errno.ENOSYS),
        "openat": bpf.without_bits(2, _WRITES, errno.EACCES) if files else bpf.refuse(errno.EACCES),
        # ENOSYS makes libc fall back to the old call, whose flags a filter can read.
        "openat2": bpf.refuse(errno.ENOSYS),
        "clone3": bpf.refuse(errno.ENOSYS),
        "clone": bpf.thread_only(0, _CLONE_THREAD, NEW_NAMESPACES, errno.EPERM),
        "ioctl": bpf.one_of(1, (_FIONBIO, _FIOCLEX), errno.ENOTTY),
        "fcntl": bpf.one_of(1, _FCNTL, errno.EPERM),
        "socketpair": bpf.one_of(0, (_AF_UNIX,), errno.EPERM),
        "sendto": bpf.null(4, errno.EPERM),  # an address would reach the sockets of other processes
        "prlimit64": bpf.one_of(0, (0,), errno.EPERM),
        "prctl": bpf.one_of(0, (_PR_SET_NAME, _PR_GET_NAME), errno.EPERM),
    }
    if network:
        checks |= {"socket": bpf.one_of(0, (_AF_INET, _AF_INET6), errno.EPERM), "sendto": bpf.allow()}
    rules: dict[int, bpf.Body] = {}
    for table in (_PLAIN, _CHECKED, *([_NETWORK] if network else [])):
        for name, numbers in table.items():
            number = numbers[arch.column]
            if number is not None:
                rules[number] = checks.get(name) or bpf.allow()
    return rules
