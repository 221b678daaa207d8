"""The zygote: a small clean process that forks rooms on request.

It never sees code or tests: a request is a few numbers and descriptors, so that no later room finds an earlier
one's secrets in memory it inherits. It lives as long as its control socket; the end of that is its own end.

    supervisor -> zygote   REQUEST with descriptors     zygote -> supervisor   PIDS, or why it couldn't fork
    supervisor -> zygote   one byte: done               zygote -> supervisor   REPORT, all rooms reaped
"""

from __future__ import annotations

import array
import ast
import contextlib
import gc
import importlib
import mmap
import os
import resource
import signal
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from posttrain.sandbox import codec  # fmt: skip
from posttrain.sandbox.isolation import confinement, preloads, syscalls  # fmt: skip
from posttrain.sandbox.rooms import (  # fmt: skip
    cells,
    devices,
    language_room,
    program_room,
    serving,
    solution_room,
    watch,
)
from posttrain.sandbox.tester import handles, identity, tester_room  # fmt: skip

REQUEST = struct.Struct("!BIQ")
"""Rooms (PROGRAM, BOTH, SESSION, SERVICE or, in tier A, LANGUAGE), seconds of processor time, bytes of memory."""
PROGRAM, BOTH, SESSION, LANGUAGE, SERVICE = 1, 2, 3, 4, 5
PIDS = struct.Struct("!ii")
"""Of S and of T, 0 where there is no room; (-errno, 0) where a fork failed, and then no room is left."""
REPORT = struct.Struct("!iddiddI")
"""Of S and of T: wait status, seconds of processor time, peak resident MiB. All 0 where there was no room. Last,
how often S tried what is never allowed, by its own count."""
_DESCRIPTORS = {PROGRAM: 2, BOTH: 4, SESSION: 2, LANGUAGE: 2, SERVICE: 2}
_MAX_OPEN = 4096
Room = Callable[[int, int, Any, mmap.mmap], None]
_SOLUTION_ROOMS: dict[int, Room] = {
    PROGRAM: program_room.run_program,
    BOTH: solution_room.run_module,
    SESSION: cells.run_cells,
    LANGUAGE: language_room.run_language,
}

# What nearly every solution imports. More costs every fork its page tables; less costs an import a snippet.
PRELOADED = (
    "abc", "ast", "asyncio", "array", "base64", "binascii", "bisect", "calendar", "cmath",
    "collections", "concurrent.futures.thread", "contextlib", "copy", "dataclasses", "datetime",
    "decimal", "difflib", "enum", "fractions", "functools", "hashlib", "heapq", "inspect", "io",
    "itertools", "json", "math", "numbers", "operator", "os", "pprint", "queue", "random", "re",
    "secrets", "statistics", "string", "struct", "sys", "textwrap", "threading", "time", "timeit",
    "traceback", "types", "typing", "unicodedata", "unittest", "uuid", "warnings", "zlib",
)  # fmt: skip


def main(socket_fd: int, tier: str, preload: list[str]) -> None:
    """Prepares, says b"ok" or why not, then serves. Never returns."""
    control = socket.socket(fileno=socket_fd)
    try:
        folders = _load_solution_libraries(preload)
        os.environ.clear()
        zygote = Zygote(control, tier, folders, _SOLUTION_ROOMS)
    except (confinement.ConfinementError, OSError) as error:
        control.send(str(error).encode()[:1000])
        os._exit(1)
    serve(control, zygote)


def serve(control: socket.socket, zygote: Zygote) -> None:
    """Reports b"ok", then forks rooms until the supervisor hangs up. Never returns."""
    control.send(b"ok")
    try:
        zygote.serve()
    except ConnectionError:  # the supervisor is gone
        os._exit(0)


def _load_solution_libraries(preload: list[str]) -> list[str]:
    """Imports what rooms for solutions use; returns the folders that they must be able to read."""
    for name in PRELOADED:
        with contextlib.suppress(ImportError):  # a distribution may leave one out
            importlib.import_module(name)
    folders = preloads.load(preload)
    solution_room.add_quitters()
    devices.install()
    _warm_up()
    _share_page_tables()
    return folders


class Zygote:
    """Forks rooms of this process, which has one thread and has loaded all that they need.

    `folders` are what rooms may read besides the standard library, `listed` the folders whose files they may name;
    `network` lets them use it. Raises ConfinementError or OSError where a layer of the confinement can't be put up.
    """

    def __init__(
        self,
        control: socket.socket,
        tier: str,
        folders: Sequence[str],
        rooms: Mapping[int, Room],
        *,
        listed: Sequence[str] = (),
        network: bool = False,
    ) -> None:
        arch = syscalls.architecture()
        if arch is None:
            raise confinement.ConfinementError(f"no system call table for {os.uname().machine}")
        self._control = control
        self._rooms = dict(rooms)
        self._isolated = tier == "A"
        _first_to_go()
        confinement.set_dumpable(False)
        if self._isolated:
            confinement.enter_namespaces()
        self._ruleset = None if tier == "C" else confinement.landlock_ruleset(folders, listed=listed, network=network)
        self._program = syscalls.room_filter(arch, files=self._ruleset is not None, network=network)
        _own_null_device()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        self._page = mmap.mmap(-1, mmap.PAGESIZE)  # shared with the room of the moment, which counts there
        self._base_memory = _address_space()
        if self._isolated:
            confinement.hide_host(folders)  # last: what was read above lies there
        gc.collect()
        gc.disable()  # a collection in a room would touch, and so copy, every page; rooms enable it again
        gc.freeze()

    def serve(self) -> None:
        while True:
            message, fds = self._receive()
            rooms, cpu_s, memory = REQUEST.unpack(message)
            limits = confinement.Limits(cpu_s=cpu_s, memory=self._base_memory + memory)
            self._page[:] = bytes(mmap.PAGESIZE)  # nothing of the last room is left for this one
            pids: list[int] = []
            try:
                pids.append(self._fork(fds[:2], limits, self._rooms[rooms]))
                if rooms == BOTH:
                    pids.append(self._fork(fds[2:], limits, None))
            except OSError as error:  # no processes or no memory left: for now, perhaps
                _end(pids)
                self._control.send(PIDS.pack(-(error.errno or 1), 0))
                continue
            finally:
                for fd in fds:
                    os.close(fd)
            self._control.send(PIDS.pack(pids[0], pids[1] if len(pids) > 1 else 0))
            done = self._control.recv(1)
            report = [value for ended in _end(pids) for value in ended]
            if not done:
                os._exit(0)
            missing = [0, 0.0, 0.0] if len(pids) == 1 else []
            self._control.send(REPORT.pack(*report, *missing, watch.count(self._page)))

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

    def _fork(self, fds: list[int], limits: confinement.Limits, room: Room | None) -> int:
        """Forks a room that runs `room`, or the tests; returns its pid. Raises OSError."""
        pid = confinement.fork_room(self._isolated)
        if pid:
            return pid
        try:
            confinement.die_with_parent()
            _close_others([*fds, *([] if self._ruleset is None else [self._ruleset])])
            _own_null_device()
            if room is None:
                self._page.close()
                tester_room.run(fds[0], fds[1], self._confine(limits))
            else:
                language = room is language_room.run_language
                lock = language_room.lock(limits) if language else self._confine(limits)
                room(fds[0], fds[1], lock, self._page)
        except BaseException:  # noqa: BLE001, S110  a room has nobody to tell; what is missing is the message
            pass
        finally:
            os._exit(1)

    def _confine(self, limits: confinement.Limits) -> Callable[[], None]:
        return lambda: confinement.confine(limits, self._ruleset, self._program)


def _first_to_go() -> None:
    """Where the host runs out of memory, the kernel ends a room, and not whoever has most: the trainer."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def _share_page_tables() -> None:
    """Lets rooms inherit the mappings of libraries' pages, and not fault each of them in anew.

    A fork leaves out the page tables of a file's mapping, unless a page of it has a private copy: so one page of each
    gets one, by writing back a byte that is there. Where that isn't allowed, rooms are a little slower.
    """
    with contextlib.suppress(OSError), open("/proc/self/maps") as maps, open("/proc/self/mem", "r+b", 0) as memory:
        for line in maps:
            place, rights, _, _, inode, *_ = line.split()
            if rights in ("r-xp", "r--p") and inode != "0":
                with contextlib.suppress(OSError):
                    start = int(place.partition("-")[0], 16)
                    memory.seek(start)
                    first = memory.read(1)
                    memory.seek(start)
                    memory.write(first)


def _warm_up() -> None:
    """Walks the paths of a job on a sample of our own.

    What the interpreter sets up at first use, and writes into bytecode that it has seen a few times, is then done
    once here, and not in every room, where each such write copies a page.
    """
    for _ in range(12):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            namespace: dict[str, Any] = {}
            codec.write_frame(
                ours.fileno(), {"code": "def f(x): return [x, 2.5, 'a', (1,), {'k': {1}}]", "kind": "asserts"}
            )
            solution_room.load(codec.read_frame(theirs.fileno())["code"], namespace)
            server = serving.Server(theirs.fileno(), namespace)
            spec = {
                "kind": "asserts",
                "entry": ["f"],
                "stop": False,
                "tests": ["assert f(1)[0] == 1\nassert f(1) != 2"],
            }
            tests = tester_room.Tests(spec, handles.Solution(ours.fileno()))
            tests.cases()
            for request in (["global", "f", False], ["call", 0, False, [1], {}]):
                codec.write_frame(ours.fileno(), request)
                codec.write_frame(theirs.fileno(), server.reply(codec.read_frame(theirs.fileno())))
                tests.solution.decode(codec.read_frame(ours.fileno())[1])
            for statement in tests.statements:
                compile(ast.Module([identity.comparing(statement)], []), "<tests>", "exec", dont_inherit=True)
            tester_room.Tally().frame()


def _close_others(keep: list[int]) -> None:
    low = 3
    for fd in [*sorted(keep), _MAX_OPEN]:
        os.closerange(low, fd)
        low = fd + 1


def _own_null_device() -> None:
    # Flags such as O_NONBLOCK belong to the open file: on a shared one, a room could leave notes for the next.
    null = devices.open_anew(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)


def _end(pids: list[int]) -> list[tuple[int, float, float]]:
    for pid in pids:  # all at once: they die side by side
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    ended = []
    for pid in pids:
        _, status, usage = os.wait4(pid, 0)
        ended.append((status, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024))
    return ended


def _address_space() -> int:
    """Bytes of address space that an idle room has already."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


__all__ = ["BOTH", "LANGUAGE", "PIDS", "PROGRAM", "REPORT", "REQUEST", "SERVICE", "SESSION", "Zygote", "main", "serve"]
