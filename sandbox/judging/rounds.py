"""One run in fresh rooms: asks the zygote for them, talks to them, keeps the wall clock, ends them."""

from __future__ import annotations

import array
import contextlib
import math
import os
import select
import signal
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from posttrain.sandbox.isolation import zygote
from posttrain.sandbox.jobs import Job
from posttrain.sandbox.rooms.solution_room import READY

STARVATION_FACTOR, GRACE_S = 5, 1.0
"""The wall clock stands still while rooms wait for a processor: up to this many times its length for a judge that
yields to others, for so many seconds for one that doesn't."""


@dataclass(frozen=True)
class Report:
    """How a room ended."""

    status: int
    cpu_s: float
    peak_mb: float

    def out_of_time(self, limit_s: float) -> bool:
        """Whether it was killed, by the kernel's own limit as it seems.

        That one counts in ticks: on a loaded host it may strike well before the clock, which is exact, is full.
        """
        return self.status == signal.SIGKILL and self.cpu_s >= limit_s / 2


@dataclass(frozen=True, kw_only=True)
class Ends:
    """How both rooms ended."""

    solution: Report
    tester: Report
    locked: bool
    """Whether S was locked in before it ran anything."""
    denied: int
    """How often S tried what is never allowed, by its own count."""


LOOK_S = 0.02
"""Between two looks at how many threads a room has."""
MAX_THREADS = 512
"""Of a room, give or take what it can start between two looks. Threads with small stacks cost it little of its address
space, and the host's process numbers and kernel memory a lot; no limit of the kernel's counts them for root."""
LEVELS = 10
"""By so much a room's priority falls while it uses up its processor time: what has just begun goes first."""
IDLE_LOOK_S = 0.1
"""Between two looks at rooms that have been silent for long: do they work, or wait for something?"""
_TICKS = os.sysconf("SC_CLK_TCK")
_THREADS = 17
"""Index of their number in `_stat`."""


class ZygoteGone(Exception):
    """The zygote died or doesn't answer. `late`: when the wall clock of the job had run out already."""

    late = False


class HostBusy(Exception):
    """The host has no descriptor, process or memory left for a room: for now, perhaps."""


class Round:
    """Fresh rooms for one run, and their end. `code` and `second` are our ends of what each room got, and `work` are
    the frames that are written there first.

    Raises HostBusy or ZygoteGone.
    """

    def __init__(
        self, control: socket.socket, job: Job, rooms: int, *, patient: bool, work: tuple[bytes, bytes] = (b"", b"")
    ) -> None:
        self._control = control
        self._patient = patient
        self.wall_s = 3 * job.timeout_s + 1
        self.idle_s = job.timeout_s
        self.timed_out = False
        self.idled = False
        self.crowded = False
        self._next_look = 0.0
        self._level = 0
        self._priority = os.getpriority(os.PRIO_PROCESS, 0)
        self._pidfds: list[int] = []
        try:
            pairs = [socket.socketpair() for _ in range(3 if rooms == zygote.BOTH else 2)]
        except OSError as error:
            raise HostBusy(f"no descriptors for a room: {error}") from error
        self.code, self.second = pairs[0][0], pairs[1][0]
        handed = [pairs[0][1], pairs[1][1]]
        if rooms == zygote.BOTH:
            handed = [pairs[0][1], pairs[2][0], pairs[1][1], pairs[2][1]]
        # Small work is there before its room: that saves a turn of each process.
        rest = [_send_some(end, frame) for end, frame in zip((self.code, self.second), work, strict=True)]
        try:
            request = zygote.REQUEST.pack(rooms, math.ceil(job.timeout_s), job.memory_mb << 20)
            self.pids = self._ask(request, handed)
        finally:
            for end in handed:
                end.close()
        self._started = time.monotonic()
        for end, frame in zip((self.code, self.second), rest, strict=True):
            end.settimeout(self.wall_s)
            self.send(end, frame)

    def _ask(self, request: bytes, handed: list[socket.socket]) -> list[int]:
        rights = array.array("i", [s.fileno() for s in handed])
        try:
            self._control.sendmsg([request], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
            reply = self._control.recv(zygote.REPORT.size)
        except OSError as error:
            raise ZygoteGone(f"the zygote doesn't answer: {error}") from error
        if len(reply) != zygote.PIDS.size:  # a report of an earlier round isn't read as process numbers
            raise ZygoteGone("the zygote died, or answered another request")
        pids = [pid for pid in zygote.PIDS.unpack(reply) if pid]
        if pids[0] < 0:
            raise HostBusy(f"a room can't be forked: {os.strerror(-pids[0])}")
        for pid in pids:  # not reaped before we say so: these are the rooms, and no later process of that number
            with contextlib.suppress(OSError):  # an older kernel has no such call
                self._pidfds.append(os.pidfd_open(pid))
        return pids

    def send(self, end: socket.socket, frame: bytes) -> None:
        """Hands a room its work. A room that is dead already is found out later."""
        with contextlib.suppress(OSError):
            end.sendall(frame)

    def read(self, end: socket.socket, size: int) -> bytes:
        """Up to `size` bytes; b"" at the end, once the wall clock has run out, or once the rooms have slept for as long
        as they may compute (then `timed_out`): so much rest is no load of the host's, and holds up what waits. b"" too
        once there are too many threads (then `crowded`).
        """
        poll = select.poll()
        poll.register(end, select.POLLIN)
        while True:
            if poll.poll(0):  # before the clocks: this process may have been stopped while the answer was there
                with contextlib.suppress(ConnectionError):
                    return end.recv(size)
                return b""
            left = self._started + self.wall_s + self._starved_s() - time.monotonic()
            if left <= 0 or self._idles():
                self.timed_out = True
                return b""
            if poll.poll(1000 * min(left, LOOK_S)):
                with contextlib.suppress(ConnectionError):
                    return end.recv(size)
                return b""
            if self.overcrowded():
                return b""

    def _idles(self) -> bool:
        now = time.monotonic()
        over = now - self._started - self.idle_s
        if over >= 0 and now >= self._next_look:
            self._next_look = now + IDLE_LOOK_S
            self.idled = self._active_s() <= over
        return self.idled

    def overcrowded(self) -> bool:
        """Whether the room of foreign code has more than MAX_THREADS threads, now or at an earlier look.

        Also lowers its priority while it computes: many endless loops must not make a short program late.
        """
        fields = _stat(self.pids[0])
        if fields:
            self.crowded = self.crowded or int(fields[_THREADS]) > MAX_THREADS
            level = min(LEVELS, int(LEVELS * _cpu_s(fields) / self.idle_s))
            if level > self._level:
                self._level = level
                with contextlib.suppress(OSError):  # it has ended
                    os.setpriority(os.PRIO_PROCESS, self.pids[0], self._priority + level)
        return self.crowded

    @property
    def limit(self) -> str:
        """What ended the rooms, in words."""
        if self.crowded:
            return f"more than {MAX_THREADS} threads"
        return f"{self.idle_s:g} s of sleep" if self.idled else f"{self.wall_s:g} s"

    def _active_s(self) -> float:
        """Seconds that the rooms have worked or waited for a processor: more than that, if they have threads.

        Infinite where the host doesn't say: then only the wall clock counts.
        """
        active = 0.0
        for pid in self.pids:
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                active += sum(map(int, fields[11:13])) / _TICKS
                for task in Path(f"/proc/{pid}/task").iterdir():
                    active += int((task / "schedstat").read_text().split()[1]) / 1e9
                    if (task / "stat").read_text().rpartition(")")[2].split()[0] in "RD":
                        return math.inf  # at work, or held up by the host's disk, at this very moment
            except (OSError, IndexError, ValueError):
                return math.inf
        return active

    def read_until(self, end: socket.socket, size: int, left_s: float) -> bytes | None:
        """Up to `size` bytes; b"" at the end, None if nothing came within `left_s` seconds."""
        poll = select.poll()
        poll.register(end, select.POLLIN)
        if left_s <= 0 or not poll.poll(left_s * 1000):
            return None
        with contextlib.suppress(ConnectionError):
            return end.recv(size)
        return b""

    def spent_s(self) -> float:
        """Seconds of processor time that the first room has used, dead or alive, until it is reaped; 0 after that."""
        return _cpu_s(_stat(self.pids[0]))

    def _starved_s(self) -> float:
        """Seconds the rooms stood ready but got no processor: a loaded host must not fail right answers."""
        if time.monotonic() - self._started < self.wall_s:
            return 0.0
        waited = 0
        for pid in self.pids:
            with contextlib.suppress(OSError, IndexError, ValueError):
                waited += int(Path(f"/proc/{pid}/schedstat").read_text().split()[1])
        return min(waited / 1e9, STARVATION_FACTOR * self.wall_s if self._patient else GRACE_S)

    def finish(self) -> Ends:
        """Kills and reaps all rooms: how S and T ended. Raises ZygoteGone."""
        try:
            self._control.send(b"x")
            reply = self._control.recv(zygote.REPORT.size)
        except OSError as error:
            raise self._gone(f"the zygote doesn't answer: {error}") from error
        if len(reply) != zygote.REPORT.size:
            raise self._gone("the zygote died")
        self._drop_pidfds(kill=False)
        values = zygote.REPORT.unpack(reply)
        locked = self.rest(self.code, 2) == READY
        return Ends(solution=Report(*values[:3]), tester=Report(*values[3:6]), locked=locked, denied=values[6])

    def _gone(self, reason: str) -> ZygoteGone:
        error = ZygoteGone(reason)
        error.late = self.timed_out
        return error

    def rest(self, end: socket.socket, size: int) -> bytes:
        """What still lies in a channel whose room is dead."""
        end.setblocking(False)
        with contextlib.suppress(OSError):
            return end.recv(size)
        return b""

    def close(self) -> None:
        """Nothing of the rooms is left, whether or not `finish` got that far."""
        self._drop_pidfds(kill=True)
        self.code.close()
        self.second.close()

    def _drop_pidfds(self, *, kill: bool) -> None:
        while self._pidfds:
            fd = self._pidfds.pop()
            if kill:
                with contextlib.suppress(OSError):
                    signal.pidfd_send_signal(fd, signal.SIGKILL)
            os.close(fd)


def threads(pid: int) -> int:
    """How many threads a process has; 0 if it has ended."""
    fields = _stat(pid)
    return int(fields[_THREADS]) if fields else 0


def _stat(pid: int) -> list[str]:
    """What the kernel says of a process, from its state on; empty if it is reaped."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return []


def _cpu_s(fields: list[str]) -> float:
    return (int(fields[11]) + int(fields[12])) / _TICKS if fields else 0.0


def _send_some(end: socket.socket, frame: bytes) -> bytes:
    """Sends what fits into the socket's buffer; the rest."""
    end.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        return frame[end.send(frame) :] if frame else b""
    return frame
