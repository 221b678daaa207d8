"""Locks a process in, for good: rlimits, no capabilities, Landlock, seccomp; and namespaces where there are any.

Everything here runs in the zygote or in a room, never in the caller's process.
"""

from __future__ import annotations

import ctypes
import glob
import os
import resource
import struct
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from posttrain.sandbox.isolation import syscalls

_libc = ctypes.CDLL(None, use_errno=True)
_libc_with_gil = ctypes.PyDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc_with_gil.syscall.restype = ctypes.c_long

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
_SECCOMP_MODE_FILTER = 2
_CLONE_NEWNS, _CLONE_NEWUTS, _CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
_CLONE_NEWUSER, _CLONE_NEWPID, _CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
_SIGCHLD, _SIGKILL = 17, 9
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 0x1, 0x2, 0x4, 0x8
_DEVICES = 0x40 | 0x200 | 0x800  # making character devices, sockets and block devices
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REC, _MS_PRIVATE = 1, 2, 4, 8, 0x4000, 0x40000
_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE = 442, -100, 0x8000
_MOUNT_RDONLY, _MOUNT_NOSUID = 1, 2
_TELLING = ("/proc", "/sys", "/tmp", "/var/tmp", "/dev/shm", "/run", "/mnt", "/home", "/root")
_STACK_BYTES = 128 << 20
_CAPABILITY_V3 = 0x20080522


class ConfinementError(Exception):
    """A layer can't be put up; the process must not run foreign code."""


@dataclass(frozen=True)
class Limits:
    """What one room may use."""

    cpu_s: int
    """Seconds of processor time, summed over threads; the kernel kills at this point."""
    memory: int
    """Bytes of address space."""


def _check(result: int, what: str) -> int:
    if result < 0:
        raise ConfinementError(f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def set_dumpable(on: bool) -> None:
    """A process that isn't dumpable can't be traced or read through /proc by its own user."""
    _check(_libc.prctl(_PR_SET_DUMPABLE, int(on), 0, 0, 0), "prctl(PR_SET_DUMPABLE)")


def die_with_parent() -> None:
    """The kernel kills this process when the one that forked it ends."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0), "prctl(PR_SET_PDEATHSIG)")


def enter_namespaces() -> None:
    """Tier A: own user, mount, network, ipc and uts namespaces for this process and all rooms it forks."""
    arch = _architecture()
    uid, gid = os.getuid(), os.getgid()
    set_dumpable(True)  # else /proc/self/uid_map belongs to root
    flags = _CLONE_NEWUSER | _CLONE_NEWNS | _CLONE_NEWNET | _CLONE_NEWIPC | _CLONE_NEWUTS
    _check(_libc.syscall(arch.unshare, flags), "unshare(CLONE_NEWUSER, ...)")
    try:
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{uid} {uid} 1"),
            ("gid_map", f"{gid} {gid} 1"),
        ):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    except OSError as error:
        raise ConfinementError(f"mapping the user into its namespace: {error}") from error
    set_dumpable(False)


def hide_host(libraries: Sequence[str] = ()) -> None:
    """Tier A: an empty folder in place of each that tells of the host or its users, for this process and its rooms.

    Landlock refuses to open what lies there, but not to ask whether it exists. A folder that Python itself lives in
    stays. Raises ConfinementError.
    """
    arch = _architecture()
    _check(_libc.syscall(arch.mount, b"none", b"/", None, _MS_REC | _MS_PRIVATE, None), "mount(/, private)")
    needed = [os.path.realpath(path) for path in (*_readable()[0], *libraries, sys.prefix, sys.base_prefix)]
    flags = _MS_RDONLY | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    for folder in _TELLING:
        if os.path.isdir(folder) and not any(path.startswith(f"{folder}/") for path in needed):
            mounted = _libc.syscall(arch.mount, b"none", folder.encode(), b"tmpfs", flags, b"size=4k,mode=555")
            _check(mounted, f"mount({folder})")


def own_folder(folder: str, size_mb: int) -> None:
    """Puts an empty folder in memory over `folder`, and a small one over /proc, for this process and its children; all
    else can't be written to. Raises ConfinementError.
    """
    arch = _architecture()
    _check(_libc.syscall(arch.unshare, _CLONE_NEWNS), "unshare(CLONE_NEWNS)")
    # Landlock doesn't stop an owner from changing modes and times; a mount that can't be written to does.
    attributes = struct.pack("<QQQQ", _MOUNT_RDONLY | _MOUNT_NOSUID, 0, 0, 0)
    size = ctypes.c_size_t(len(attributes))
    done = _libc.syscall(_MOUNT_SETATTR, _AT_FDCWD, b"/", _AT_RECURSIVE, attributes, size)
    _check(done, "mount_setattr(/, read-only)")
    for path, options in ((folder, f"size={size_mb}m,nr_inodes=10k,mode=700"), ("/proc", "size=4k,mode=555")):
        flags = _MS_NOSUID | _MS_NODEV
        mounted = _libc.syscall(arch.mount, b"none", path.encode(), b"tmpfs", flags, options.encode())
        _check(mounted, f"mount({path})")


def fork_room(own_pid_namespace: bool) -> int:
    """Forks; returns 0 in the room. In a pid namespace of its own, the room's end is the end of all it started.

    Raises OSError (EAGAIN, ENOMEM) where the host has no process or memory left.
    """
    if not own_pid_namespace:
        return os.fork()
    arch = _architecture()
    # unshare(CLONE_NEWPID) works once a process; only a raw clone gives every room a fresh one. The GIL is kept
    # (PyDLL), and the zygote has one thread, so that the child finds no lock held.
    pid = int(_libc_with_gil.syscall(arch.clone, ctypes.c_long(_CLONE_NEWPID | _SIGCHLD), 0, 0, 0, 0))
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
    if pid < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return pid


def _architecture() -> syscalls.Architecture:
    arch = syscalls.architecture()
    if arch is None:
        raise ConfinementError(f"no system call table for {os.uname().machine}")
    return arch


# ---------------------------------------------------------------- Landlock


def _readable() -> tuple[list[str], list[str]]:
    """(paths to read, folders to list only): the standard library without site-packages, shared libraries."""
    stdlib = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
    paths = ["/etc/ld.so.cache", "/usr/share/zoneinfo", "/lib64", "/usr/lib64"]
    for folder in stdlib:
        paths += [e.path for e in os.scandir(folder) if e.name not in ("site-packages", "dist-packages")]
        paths += glob.glob(os.path.join(os.path.dirname(folder), "lib*.so*"))
    multiarch = sysconfig.get_config_var("MULTIARCH") or f"{os.uname().machine}-linux-gnu"
    for root in ("/lib", "/usr/lib", "/usr/local/lib"):
        paths += [os.path.join(root, multiarch), *glob.glob(os.path.join(root, "lib*.so*"))]
    return paths, sorted(stdlib)


def _add_rule(ruleset: int, path: str, access: int) -> None:
    try:
        fd = os.open(os.path.realpath(path), os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # not on this system: nothing to allow
    try:
        if not os.path.isdir(path):
            access &= _READ_FILE | _WRITE_FILE | _EXECUTE
        rule = struct.pack("<Qi", access, fd)
        _check(_libc.syscall(syscalls.LANDLOCK_ADD, ruleset, 1, rule, 0), f"landlock_add_rule({path})")
    finally:
        os.close(fd)


def landlock_ruleset(libraries: Sequence[str] = (), *, listed: Sequence[str] = (), network: bool = False) -> int:
    """A ruleset that allows reading the standard library, these folders and nothing else; returns its descriptor.

    Of the folders `listed`, the names of files can be read. `network` allows connections. Raises ConfinementError where
    the kernel has no Landlock (before 5.13, or switched off at boot).
    """
    ruleset, _ = _new_ruleset(network=network)
    paths, named = _readable()
    for path in (*paths, *libraries):
        _add_rule(ruleset, path, _READ_FILE | _READ_DIR)
    for path in (*named, *listed):
        _add_rule(ruleset, path, _READ_DIR)
    return ruleset


def _new_ruleset(*, network: bool = False) -> tuple[int, int]:
    """(descriptor of a ruleset that allows nothing, all rights on files that it knows)."""
    abi = _libc.syscall(syscalls.LANDLOCK_CREATE, None, 0, 1)
    if abi < 1:
        raise ConfinementError("the kernel has no Landlock")
    # Each version of the interface knows more rights: refer (2), truncate (3), network (4), ioctl (5), scopes (6).
    filesystem = {1: 0x1FFF, 2: 0x3FFF, 3: 0x7FFF, 4: 0x7FFF}.get(abi, 0xFFFF)
    ports = 3 if abi >= 4 and not network else 0
    attributes = struct.pack("<QQQ", filesystem, ports, 3 if abi >= 6 else 0)
    size = 8 if abi < 4 else 16 if abi < 6 else 24
    ruleset = int(_libc.syscall(syscalls.LANDLOCK_CREATE, attributes, size, 0))
    _check(ruleset, "landlock_create_ruleset")
    return ruleset, filesystem


def language_ruleset(folder: str) -> int:
    """A ruleset for programs of other languages: the system's programs and libraries, and `folder` to write in.

    Raises ConfinementError.
    """
    ruleset, filesystem = _new_ruleset()
    for path in ("/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/alternatives"):
        _add_rule(ruleset, path, _READ_FILE | _READ_DIR | _EXECUTE)
    for path in ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random"):
        _add_rule(ruleset, path, _READ_FILE | _WRITE_FILE)
    _add_rule(ruleset, folder, filesystem & ~_DEVICES)
    return ruleset


# ---------------------------------------------------------------- the lock


def _limit(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def confine(
    limits: Limits, ruleset: int | None, program: bytes, more: Mapping[int, int] | None = None, *, bounded: bool = True
) -> None:
    """Locks this process in; there is no way back. `ruleset` None: no Landlock (tier C). `more` rlimits take the place
    of ours; not `bounded`: the address space may be any size.

    The order matters: each step takes away what the next ones no longer need. Raises ConfinementError.
    """
    ours = {
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CPU: limits.cpu_s,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_STACK: _STACK_BYTES,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_MEMLOCK: 0,
    }
    for kind, value in (ours | dict(more or {}) | ({resource.RLIMIT_AS: limits.memory} if bounded else {})).items():
        _limit(kind, value)
    set_dumpable(False)
    # Root keeps its name but none of its powers: with CAP_SYS_RESOURCE it could lift its own limits.
    header, none = struct.pack("<Ii", _CAPABILITY_V3, 0), bytes(24)
    _check(_libc.syscall(_architecture().capset, header, none), "capset")
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl(PR_SET_NO_NEW_PRIVS)")
    if ruleset is not None:
        _check(_libc.syscall(syscalls.LANDLOCK_RESTRICT, ruleset, 0), "landlock_restrict_self")
        os.close(ruleset)
    buffer = ctypes.create_string_buffer(program, len(program))
    fprog = _Program(len(program) // 8, ctypes.addressof(buffer))
    _check(_libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(fprog), 0, 0), "prctl(PR_SET_SECCOMP)")
