"""The system calls that rooms of other languages may use: those of Python's rooms, and what makes processes and files.

Still none for sockets, tracing, namespaces, mounts, keys, io_uring, bpf, clocks, shared memory or priorities. Which
files can be opened is up to Landlock and the room's mounts.
"""

from __future__ import annotations

import errno

from posttrain.sandbox.isolation import bpf
from posttrain.sandbox.isolation.syscalls import NEW_NAMESPACES, Architecture, room_rules

# name: (x86-64, aarch64)
_MORE: dict[str, tuple[int | None, int | None]] = {
    # processes and their signals; others than the room's own aren't in reach
    "execve": (59, 221), "fork": (57, None), "vfork": (58, None), "waitid": (247, 95), "kill": (62, 129),
    "tkill": (200, 130), "tgkill": (234, 131), "rt_sigpending": (127, 136), "rt_sigtimedwait": (128, 137),
    "rt_sigsuspend": (130, 133), "restart_syscall": (219, 128), "setpgid": (109, 154), "setsid": (112, 157),
    "getpriority": (140, 141), "capget": (125, 90), "getresuid": (118, 148), "getresgid": (120, 150),
    "pipe": (22, None),
    "pkey_alloc": (330, 289), "pkey_free": (331, 290), "pkey_mprotect": (329, 288),
    # standard output is a socket: node asks which kind, and closes it properly
    "getsockname": (51, 204), "getsockopt": (55, 209), "shutdown": (48, 210),
    # files of its own folder
    "open": (2, None), "openat": (257, 56), "creat": (85, None), "unlink": (87, None), "unlinkat": (263, 35),
    "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276), "mkdir": (83, None), "mkdirat": (258, 34),
    "rmdir": (84, None), "link": (86, None), "linkat": (265, 37), "symlink": (88, None), "symlinkat": (266, 36),
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "utimensat": (280, 88), "truncate": (76, 45),
    "ftruncate": (77, 46), "fallocate": (285, 47), "fsync": (74, 82), "fdatasync": (75, 83), "fchdir": (81, 50),
    "flock": (73, 32), "sendfile": (40, 71), "copy_file_range": (326, 285), "fadvise64": (221, 223),
    "statfs": (137, 43), "fstatfs": (138, 44), "preadv": (295, 69), "pwritev": (296, 70),
}  # fmt: skip
_CLONE = (56, 220)


def language_filter(arch: Architecture) -> bytes:
    """The seccomp program of such a room."""
    rules = room_rules(arch, files=True)
    for numbers in _MORE.values():
        number = numbers[arch.column]
        if number is not None:
            rules[number] = bpf.allow()
    rules[_CLONE[arch.column]] = bpf.without_bits(0, NEW_NAMESPACES, errno.EPERM)
    return bpf.assemble(arch.audit, rules, arch.has_x32)
