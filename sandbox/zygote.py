"""The zygote: a small clean process that forks rooms on request.

It never sees code or tests: a request is a few numbers and descriptors, so that no later room finds an earlier
one's secrets in memory it inherits. It lives as long as its control socket; the end of that is its own end.

    supervisor -> zygote   REQUEST with descriptors     zygote -> supervisor   PIDS
    supervisor -> zygote   one byte: done               zygote -> supervisor   REPORT, all rooms reaped
"""

from __future__ import annotations

import array
import contextlib
import gc
import importlib
import os
import resource
import signal
import socket
import struct
from collections.abc import Callable

from posttrain.sandbox import confinement, solution_room, syscalls, tester_room

REQUEST = struct.Struct("!BIQ")
"""Rooms (PROGRAM or BOTH), seconds of processor time, bytes of memory."""
PROGRAM, BOTH = 1, 2
PIDS = struct.Struct("!ii")
REPORT = struct.Struct("!iddidd")
"""Of S and of T: wait status, seconds of processor time, peak resident MiB. All 0 where there was no room."""
_DESCRIPTORS = {PROGRAM: 2, BOTH: 4}
_MAX_OPEN = 4096

# What nearly every solution imports. More costs every fork its page tables; less costs an import a snippet.
PRELOADED = (
    "abc", "ast", "asyncio", "array", "base64", "binascii", "bisect", "calendar", "cmath",
    "collections", "concurrent.futures.thread", "contextlib", "copy", "dataclasses", "datetime",
    "decimal", "difflib", "enum", "fractions", "functools", "hashlib", "heapq", "inspect", "io",
    "itertools", "json", "math", "numbers", "operator", "os", "pprint", "queue", "random", "re",
    "secrets", "statistics", "string", "struct", "sys", "textwrap", "threading", "time", "timeit",
    "traceback", "types", "typing", "unicodedata", "unittest", "uuid", "warnings", "zlib",
)  # fmt: skip


def main(socket_fd: int, tier: str) -> None:
    """Prepares, says b"ok" or why not, then serves. Never returns."""
    control = socket.socket(fileno=socket_fd)
    try:
        zygote = _Zygote(control, tier)
    except (confinement.ConfinementError, OSError) as error:
        control.send(str(error).encode()[:1000])
        os._exit(1)
    control.send(b"ok")
    try:
        zygote.serve()
    except ConnectionError:  # the supervisor is gone
        os._exit(0)


class _Zygote:
    def __init__(self, control: socket.socket, tier: str) -> None:
        arch = syscalls.architecture()
        if arch is None:
            raise confinement.ConfinementError(f"no system call table for {os.uname().machine}")
        self._control = control
        self._isolated = tier == "A"
        confinement.set_dumpable(False)
        if self._isolated:
            confinement.enter_namespaces()
        self._ruleset = None if tier == "C" else confinement.landlock_ruleset()
        self._program = syscalls.room_filter(arch, files=self._ruleset is not None)
        os.environ.clear()
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        os.close(null)
        for name in PRELOADED:
            with contextlib.suppress(ImportError):  # a distribution may leave one out
                importlib.import_module(name)
        solution_room.add_quitters()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        self._base_memory = _address_space()
        gc.collect()
        gc.disable()  # a collection in a room would touch, and so copy, every page; rooms enable it again
        gc.freeze()

    def serve(self) -> None:
        while True:
            message, fds = self._receive()
            rooms, cpu_s, memory = REQUEST.unpack(message)
            limits = confinement.Limits(cpu_s=cpu_s, memory=self._base_memory + memory)
            pids = [self._fork(fds[:2], limits, program=rooms == PROGRAM)]
            if rooms == BOTH:
                pids.append(self._fork(fds[2:], limits, tester=True))
            for fd in fds:
                os.close(fd)
            self._control.send(PIDS.pack(pids[0], pids[1] if len(pids) > 1 else 0))
            done = self._control.recv(1)
            report = [value for pid in pids for value in _end(pid)]
            if not done:
                os._exit(0)
            self._control.send(REPORT.pack(*report, *([0, 0.0, 0.0] if len(pids) == 1 else [])))

    def _receive(self) -> tuple[bytes, list[int]]:
        message, ancillary, _, _ = self._control.recvmsg(REQUEST.size, socket.CMSG_SPACE(4 * 4))
        if not message:
            os._exit(0)
        fds = array.array("i")
        for _, _, data in ancillary:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
        if len(fds) != _DESCRIPTORS[message[0]]:
            os._exit(1)
        return message, list(fds)

    def _fork(self, fds: list[int], limits: confinement.Limits, *, program: bool = False, tester: bool = False) -> int:
        pid = confinement.fork_room(self._isolated)
        if pid:
            return pid
        try:
            _close_others([*fds, *([] if self._ruleset is None else [self._ruleset])])
            run = tester_room.run if tester else solution_room.run_program if program else solution_room.run_module
            run(fds[0], fds[1], self._confine(limits))
        except BaseException:  # noqa: BLE001, S110  a room has nobody to tell; what is missing is the message
            pass
        finally:
            os._exit(1)

    def _confine(self, limits: confinement.Limits) -> Callable[[], None]:
        return lambda: confinement.confine(limits, self._ruleset, self._program)


def _close_others(keep: list[int]) -> None:
    low = 3
    for fd in [*sorted(keep), _MAX_OPEN]:
        os.closerange(low, fd)
        low = fd + 1


def _end(pid: int) -> tuple[int, float, float]:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    _, status, usage = os.wait4(pid, 0)
    return status, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def _address_space() -> int:
    """Bytes of address space that an idle room has already."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


__all__ = ["BOTH", "PIDS", "PROGRAM", "REPORT", "REQUEST", "main"]
