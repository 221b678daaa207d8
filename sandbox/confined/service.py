"""A function that reads model text, run in confined rooms: no environment, network, writes or processes.

    with ConfinedService(Service(module="my_package.verifier", attribute="Verifier")) as verifier:
        verifier.call({"answer": "42"}, timeout_s=2.0)        # what Verifier()({"answer": "42"}) returns, as JSON

A host process loads the service once, and forks a room for each call (`fresh`), so that no call changes what the
next one returns; or one room that answers call after call, for services that hold state or never evaluate text.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from posttrain.sandbox.confined.permissions import Permissions
from posttrain.sandbox.confined.room import HEADER, MAX_REPLY
from posttrain.sandbox.isolation import zygote
from posttrain.sandbox.isolation.zygote_process import StartError, ZygoteProcess
from posttrain.sandbox.jobs import Job
from posttrain.sandbox.judging.rounds import LOOK_S, HostBusy, Report, Round, ZygoteGone
from posttrain.sandbox.rooms.solution_room import READY

T = TypeVar("T")
START_TIMEOUT_S = 120.0
"""A reward file may import torch."""
MEMORY_MB = 2048
"""MiB of address space of a room above what the host has loaded."""
ATTEMPTS = 3
"""Rooms that are tried for one call where the host of the run has no process or descriptor left."""
_BUSY_PAUSE_S = 0.2
_LITTLE_CPU_S = 0.9
"""A room may lower its own limit of processor time, to a second at the least."""
_LIFETIME_CPU_S = 3600.0
"""Seconds of processor time of a room that answers many calls."""
_CALLS_PER_ROOM = 2000
"""Calls after which such a room is replaced."""
_BOOT = Path(__file__).resolve().parent / "boot.py"
_ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1")
_OFFLINE = {"HF_HUB_OFFLINE": "1"}
"""So that a library doesn't wait for a network that isn't there."""
_NETWORK_FILES = ("/etc/resolv.conf", "/etc/hosts", "/etc/host.conf", "/etc/nsswitch.conf", "/etc/gai.conf",
                  "/etc/services", "/etc/protocols", "/etc/ssl", "/etc/pki", "/usr/share/ca-certificates",
                  "/usr/local/share/ca-certificates")  # fmt: skip
"""What a client of the network reads: names of hosts, and certificates."""


class CallFailed(Exception):
    """A call raised, ran too long or ended its process; `str` says which, with the traceback if there is one."""


class CallTimeout(CallFailed):
    """The call ran too long; its process was ended."""


class RoomUnavailable(CallFailed):
    """The host of the run has no process, descriptor or memory left for a room: the call wasn't tried."""


class LoadFailed(Exception):
    """The service can't be loaded or confined; `str` is the traceback or the reason."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """What a process loads: `module.attribute(*arguments)` must return a callable of one argument.

    >>> Service(module="my_package.verifier", attribute="Verifier", arguments=("strict",))
    """

    module: str
    attribute: str
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a room answered."""

    value: Any
    refused: int
    """How many attempts to run text as code were refused while it was made (see `guard`)."""
    denied: int = 0
    """Of a fresh room: how often it tried what is never allowed, such as to fork or to write a file (see `watch`)."""


@dataclass(kw_only=True)
class _Host:
    """A host process, and the room that answers many calls, if one is open."""

    process: ZygoteProcess
    room: Round | None = None
    calls: int = 0


class ConfinedService:
    """Calls a service in confined rooms; thread-safe.

    `fresh`: a room per call, at most `hosts` at once. Otherwise one room answers all calls, in turn; `recycled` says
    whether it may be replaced between calls. `guarded`: the service must not run text as Python. `memory_mb`: address
    space per room, MiB. `listed`: folders whose file names may be read. What the service prints is dropped. After a
    fork of this process, the child starts other hosts.
    """

    def __init__(
        self,
        service: Service,
        *,
        permissions: Permissions | None = None,
        fresh: bool = True,
        guarded: bool = True,
        recycled: bool = True,
        hosts: int = 1,
        memory_mb: int = MEMORY_MB,
        listed: Sequence[str] = (),
    ) -> None:
        self._service, self._permissions = service, permissions or Permissions()
        self._fresh, self._guarded, self._recycled = fresh, guarded, recycled
        self._memory_mb, self._listed = memory_mb, tuple(listed)
        self._limit = hosts if fresh else 1
        self._wants: tuple[str, ...] | None = None
        self._forget()

    def _forget(self) -> None:
        """Start without hosts: those that there are belong to another process."""
        self._hosts = threading.BoundedSemaphore(self._limit)
        self._idle: list[_Host] = []
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def wants(self) -> tuple[str, ...]:
        """Which optional keywords the service takes; starts it. Raises LoadFailed."""
        if self._wants is None:
            with self._host() as host:
                self._tried(host, lambda: self._ready(host))
        return self._wants or ()

    def call(self, argument: Any, timeout_s: float) -> Any:
        """What the service returns for `argument`, as JSON has it. See `reply`."""
        return self.reply(argument, timeout_s).value

    def reply(self, argument: Any, timeout_s: float) -> Reply:
        """The service's reply to `argument`, which is pickled.

        With `fresh` rooms, `timeout_s` is processor time, and three times as much and a second of wall clock;
        otherwise wall clock. Raises CallFailed, CallTimeout,
        RoomUnavailable or LoadFailed.
        """
        body = pickle.dumps(argument)
        frame = HEADER.pack(len(body)) + body
        with self._host() as host:
            if self._fresh:
                return self._tried(host, lambda: self._ask_fresh(host, frame, timeout_s))
            return self._tried(host, lambda: _parse(self._ask(host, frame, timeout_s)))

    def _tried(self, host: _Host, ask: Callable[[], T]) -> T:
        """What `ask` returns, on a new host where the last one failed. Raises as `reply`.

        A host is ended whatever else is raised (an interrupt, an alarm): a late reply must not pass for the next one.
        """
        for attempt in range(ATTEMPTS):
            try:
                return ask()
            except (CallFailed, LoadFailed):
                raise
            except (HostBusy, ZygoteGone, OSError) as error:
                self._end(host, kill=True)
                reason = str(error)
                time.sleep(_BUSY_PAUSE_S * (1 + attempt))
            except BaseException:
                self._end(host, kill=True)
                raise
        raise RoomUnavailable(f"no room for a call: {reason}")

    def close(self) -> None:
        """Ends all processes. A later call starts them again."""
        with self._lock:
            idle, self._idle = self._idle, []
        for host in idle:
            self._end(host)

    # ------------------------------------------------------------ hosts

    @contextlib.contextmanager
    def _host(self) -> Iterator[_Host]:
        if self._pid != os.getpid():
            self._forget()
        with self._hosts:
            with self._lock:
                host = self._idle.pop() if self._idle else _Host(process=self._process())
            try:
                yield host
            finally:
                with self._lock:
                    self._idle.append(host)

    def _process(self) -> ZygoteProcess:
        permitted = self._permissions
        environment = {name: os.environ[name] for name in permitted.environment if name in os.environ}
        folders = [*_library_folders(), *permitted.files, *(_NETWORK_FILES if permitted.network else ())]
        configuration = {
            "module": self._service.module,
            "attribute": self._service.attribute,
            "arguments": self._service.arguments,
            "path": [path for path in (*_package_roots(), *sys.path) if path],
            "folders": folders,
            "listed": list(self._listed),
            "network": permitted.network,
            "guarded": self._guarded,
        }
        return ZygoteProcess(
            str(_BOOT),
            environment={**_ONE_THREAD, **({} if permitted.network else _OFFLINE), **environment},
            stdin=pickle.dumps(configuration),
            greeting=True,
            start_timeout_s=START_TIMEOUT_S,
            patient=True,
        )

    def _ready(self, host: _Host) -> Any:
        """The control socket of the host. Raises LoadFailed, ZygoteGone where it could be loaded before, or OSError."""
        try:
            control = host.process.ready()
        except StartError as error:
            if self._wants is not None:
                raise ZygoteGone(f"a host doesn't start: {error}") from None
            raise LoadFailed(_why_not_started(host.process.greeting, str(error))) from None
        if self._wants is None:
            self._wants = tuple(json.loads(host.process.greeting)["wants"])
        return control

    def _end(self, host: _Host, *, kill: bool = False) -> None:
        with contextlib.suppress(ZygoteGone):
            self._end_room(host)
        host.process.stop(kill=kill)

    # ------------------------------------------------------------ a room per call

    def _ask_fresh(self, host: _Host, frame: bytes, timeout_s: float) -> Reply:
        job = Job(id="call", code="", tests=(), timeout_s=timeout_s, memory_mb=self._memory_mb)
        room = Round(self._ready(host), job, zygote.SERVICE, patient=True, work=(b"", frame))
        try:
            data = _read_reply(room)
            ends = room.finish()
        finally:
            room.close()
        if data is not None:
            return replace(_parse(data), denied=ends.denied)
        if room.timed_out or ends.solution.out_of_time(timeout_s) or ends.solution.cpu_s >= timeout_s:
            raise CallTimeout(f"no answer within {timeout_s:g} s; the process was ended")
        if not room.crowded and _killed_from_outside(ends.solution, timeout_s):
            raise ZygoteGone("a room was ended from outside: the host may be short of memory")
        raise CallFailed(f"the process died ({room.limit if room.crowded else _end_of(ends.solution)})")

    # ------------------------------------------------------------ one room for all calls

    def _ask(self, host: _Host, frame: bytes, timeout_s: float) -> bytes:
        if host.room is not None and self._recycled and host.calls >= _CALLS_PER_ROOM:
            self._end_room(host)
        if host.room is None:
            self._open_room(host)
        room = host.room
        assert room is not None
        host.calls += 1
        deadline = time.monotonic() + timeout_s
        room.second.settimeout(timeout_s)
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionError):  # it has ended; what is read tells how
                room.second.sendall(frame)
            return self._receive(room, deadline)
        except TimeoutError:
            self._end_room(host)
            raise CallTimeout(f"no answer within {timeout_s:g} s; the process was ended") from None
        except EOFError:
            raise CallFailed(f"the process died ({self._end_room(host)})") from None

    def _open_room(self, host: _Host) -> None:
        job = Job(id="service", code="", tests=(), timeout_s=_LIFETIME_CPU_S, memory_mb=self._memory_mb)
        room = Round(self._ready(host), job, zygote.SERVICE, patient=True)
        if room.read(room.second, len(READY)) != READY:
            room.close()
            raise ZygoteGone("the room couldn't be locked in")
        host.room, host.calls = room, 0

    def _receive(self, room: Round, deadline: float) -> bytes:
        buffer = bytearray()
        while True:
            if len(buffer) >= HEADER.size:
                size = HEADER.unpack_from(buffer)[0]
                if size > MAX_REPLY or len(buffer) > HEADER.size + size:
                    raise EOFError  # nothing that the room itself writes
                if len(buffer) == HEADER.size + size:
                    return bytes(buffer[HEADER.size :])
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            chunk = room.read_until(room.second, 1 << 16, min(left, LOOK_S))
            if chunk == b"" or room.overcrowded():
                raise EOFError
            buffer += chunk or b""

    def _end_room(self, host: _Host) -> str:
        """Ends the room that answers many calls; returns how it ended."""
        room, host.room = host.room, None
        if room is None:
            return "not running"
        try:
            ended = _end_of(room.finish().solution)  # also where the reason is known: the zygote waits for it
            return room.limit if room.crowded else ended
        finally:
            room.close()


def _read_reply(room: Round) -> bytes | None:
    """The reply of a fresh room, or None if it wrote none. Raises ZygoteGone if it couldn't be locked in."""
    head = len(READY) + HEADER.size
    buffer = b""
    while len(buffer) < head or len(buffer) < head + HEADER.unpack_from(buffer, len(READY))[0]:
        chunk = room.read(room.second, 1 << 16)
        if not chunk:
            break
        buffer += chunk
        if len(buffer) > head + MAX_REPLY:
            return None
    if not buffer.startswith(READY) and not room.timed_out:
        raise ZygoteGone("the room couldn't be locked in")
    with contextlib.suppress(struct.error):
        if len(buffer) == head + HEADER.unpack_from(buffer, len(READY))[0]:
            return buffer[head:]
    return None


def _parse(data: bytes) -> Reply:
    """Raises CallFailed where the service raised, or what was written is no reply."""
    try:
        reply = json.loads(data.decode("utf-8", "surrogatepass"))
        refused = int(reply.get("refused", 0))
    except (ValueError, AttributeError, TypeError, OverflowError, RecursionError):
        raise CallFailed("the process wrote no reply that can be read") from None
    if "ok" not in reply:
        error = CallFailed(str(reply.get("raised", "no reply")))
        error.add_note(f"refused: {refused}")
        raise error
    return Reply(value=reply["ok"], refused=refused)


def _killed_from_outside(report: Report, limit_s: float) -> bool:
    """Whether something else than its own limits ended a room: it can't send a signal itself, and has time left."""
    killed = os.WIFSIGNALED(report.status) and os.WTERMSIG(report.status) == signal.SIGKILL
    return killed and report.cpu_s < min(limit_s / 2, _LITTLE_CPU_S)


def _end_of(report: Report) -> str:
    """How a room ended, in words."""
    if os.WIFSIGNALED(report.status):
        return f"signal {os.WTERMSIG(report.status)}"
    return f"exit code {os.WEXITSTATUS(report.status)}"


def _why_not_started(greeting: bytes, error: str) -> str:
    with contextlib.suppress(ValueError):
        found = json.loads(greeting)
        if isinstance(found, dict) and "failed" in found:
            return str(found["failed"])
    if greeting:  # it is loaded: what failed is the confinement
        return f"it can't be confined on this host: {error}. Run `posttrain doctor`"
    return error


def _package_roots() -> list[str]:
    import posttrain

    return [str(Path(posttrain.__file__).parent.parent)]


def _library_folders() -> list[str]:
    """Folders of installed packages, and of this one, which may be links elsewhere."""
    import posttrain

    package = Path(posttrain.__file__).parent
    sites = [path for path in sys.path if path.rstrip("/").endswith(("site-packages", "dist-packages"))]
    return [*sites, str(package), *(str(link.resolve()) for link in package.iterdir() if link.is_symlink())]
