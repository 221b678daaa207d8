"""One run in fresh rooms: asks the zygote for them, talks to them, keeps the wall clock, ends them."""

from __future__ import annotations

import array
import contextlib
import math
import select
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from posttrain.sandbox import codec, zygote
from posttrain.sandbox.jobs import Job
from posttrain.sandbox.solution_room import READY

STARVATION_FACTOR = 5
"""The wall clock stands still while rooms wait for a processor, up to this many times its length."""


class ZygoteGone(Exception):
    """The zygote died or doesn't answer."""


@dataclass(frozen=True)
class Report:
    """How a room ended."""

    status: int
    cpu_s: float
    peak_mb: float


class Round:
    """Fresh rooms for one run, and their end. `channels` are our ends of what each room got."""

    def __init__(self, control: socket.socket, job: Job, rooms: int) -> None:
        self._control = control
        self._cpu_s = math.ceil(job.timeout_s)
        self.wall_s = 3 * job.timeout_s + 1
        code, code_room = socket.socketpair()
        second, second_room = socket.socketpair()
        fds, ends = [code_room], [code, second]
        if rooms == zygote.BOTH:
            rpc_s, rpc_t = socket.socketpair()
            fds += [rpc_s, second_room, rpc_t]
        else:
            fds += [second_room]
        self.code, self.second = ends
        request = zygote.REQUEST.pack(rooms, self._cpu_s, job.memory_mb << 20)
        rights = array.array("i", [s.fileno() for s in fds])
        try:
            control.sendmsg([request], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
            reply = control.recv(zygote.PIDS.size)
        except OSError as error:
            raise ZygoteGone(f"the zygote doesn't answer: {error}") from error
        finally:
            for end in fds:
                end.close()
        if len(reply) != zygote.PIDS.size:
            raise ZygoteGone("the zygote died")
        self._pids = [pid for pid in zygote.PIDS.unpack(reply) if pid]
        self._started = time.monotonic()
        self.timed_out = False
        for end in ends:
            end.settimeout(self.wall_s)

    def send(self, end: socket.socket, data: object, limit: int) -> None:
        """Hands a room its work. A room that is dead already is found out later."""
        with contextlib.suppress(OSError):
            codec.write_frame(end.fileno(), data, limit)

    def read(self, end: socket.socket, size: int) -> bytes:
        """Up to `size` bytes; b"" at the end or once the wall clock has run out (then `timed_out`)."""
        poll = select.poll()
        poll.register(end, select.POLLIN)
        while True:
            left = self._started + self.wall_s + self._starved_s() - time.monotonic()
            if left <= 0:
                self.timed_out = True
                return b""
            if poll.poll(left * 1000):
                with contextlib.suppress(ConnectionError):
                    return end.recv(size)
                return b""

    def _starved_s(self) -> float:
        """Seconds the rooms stood ready but got no processor: a loaded host must not fail right answers."""
        if time.monotonic() - self._started < self.wall_s:
            return 0.0
        waited = 0
        for pid in self._pids:
            with contextlib.suppress(OSError, IndexError, ValueError):
                waited += int(Path(f"/proc/{pid}/schedstat").read_text().split()[1])
        return min(waited / 1e9, STARVATION_FACTOR * self.wall_s)

    def finish(self) -> tuple[Report, Report, bool]:
        """Kills and reaps all rooms: (S, T, whether S was locked in before it ran anything)."""
        try:
            self._control.send(b"x")
            reply = self._control.recv(zygote.REPORT.size)
        except OSError as error:
            raise ZygoteGone(f"the zygote doesn't answer: {error}") from error
        if len(reply) != zygote.REPORT.size:
            raise ZygoteGone("the zygote died")
        values = zygote.REPORT.unpack(reply)
        return Report(*values[:3]), Report(*values[3:]), self.rest(self.code, 2) == READY

    def rest(self, end: socket.socket, size: int) -> bytes:
        """What still lies in a channel whose room is dead."""
        end.setblocking(False)
        with contextlib.suppress(OSError):
            return end.recv(size)
        return b""

    def close(self) -> None:
        self.code.close()
        self.second.close()
