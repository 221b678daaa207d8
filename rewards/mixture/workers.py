"""Killable worker processes: what hangs or dies in one costs a call, not the run.

Started fresh (never forked from a process that holds CUDA, threads and locks), lazily, and again after each
failure. Works from any thread and touches no signal handler.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from posttrain.rewards.contract import RowError
from posttrain.rewards.mixture import worker
from posttrain.sandbox.confined.service import CallFailed, CallTimeout, LoadFailed, Service

T = TypeVar("T")
START_TIMEOUT_S = 120.0
"""A reward file may import torch."""
_MAX_FAILURES_IN_A_ROW = 8
_LOOK_S = 0.1
"""How often a process at work is looked at."""
_PAGE = os.sysconf("SC_PAGE_SIZE")
MEMORY_BYTES = os.sysconf("SC_PHYS_PAGES") * _PAGE // 3
"""What a process may hold: a third of the machine. A limit on its address space would forbid torch and CUDA."""


class OutOfBounds(Exception):
    """A process holds too much memory."""


__all__ = ["CallFailed", "CallTimeout", "LoadFailed", "Process", "Service", "WorkerProcess", "call_rows"]


class Process(Protocol):
    """A process that answers calls: `WorkerProcess`, with the user's rights, or `ConfinedService`, without."""

    def wants(self) -> tuple[str, ...]: ...

    def call(self, argument: Any, timeout_s: float) -> Any: ...

    def close(self) -> None: ...


class WorkerProcess:
    """One process for one service; calls of several threads take turns."""

    def __init__(self, service: Service, memory_bytes: int = MEMORY_BYTES) -> None:
        self._service, self.memory_bytes = service, memory_bytes
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._wants: tuple[str, ...] = ()

    def wants(self) -> tuple[str, ...]:
        """Which optional keywords the service takes; starts it. Raises LoadFailed."""
        with self._lock:
            self._ensure()
            return self._wants

    def call(self, argument: Any, timeout_s: float) -> Any:
        """What the service returns. Raises CallFailed, CallTimeout or LoadFailed.

        `timeout_s` is wall clock and counts from the call itself, not from the start of the process.
        """
        with self._lock:
            connection = self._ensure()
            try:
                connection.settimeout(timeout_s)
                worker.send(connection, argument)
                outcome, value = self._receive(time.monotonic() + timeout_s)
            except TimeoutError:
                self._kill()
                raise CallTimeout(f"no answer within {timeout_s:g} s; the worker was killed") from None
            except OutOfBounds:
                self._kill()
                raise CallFailed(f"over {self.memory_bytes >> 20} MiB of memory; the worker was killed") from None
            except (EOFError, OSError):
                raise CallFailed(f"the worker died ({self._kill()})") from None
            if outcome == "raised":
                raise CallFailed(value)
            return value

    def close(self) -> None:
        """Ends the process."""
        with self._lock:
            self._kill()

    def _receive(self, deadline: float) -> tuple[str, Any]:
        connection = self._connection
        assert connection is not None
        buffer = bytearray()
        size: int | None = None
        while size is None or len(buffer) < size:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            connection.settimeout(min(left, _LOOK_S))
            try:
                chunk = connection.recv(1 << 20)
            except TimeoutError:
                self._check_memory()
                continue
            if not chunk:
                raise EOFError
            buffer += chunk
            if size is None and len(buffer) >= worker.HEADER.size:
                size = worker.HEADER.unpack_from(buffer)[0] + worker.HEADER.size
        return pickle.loads(bytes(buffer[worker.HEADER.size :]))

    def _check_memory(self) -> None:
        """Raises OutOfBounds where the process holds more memory than it may."""
        assert self._process is not None
        try:
            pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        except (OSError, IndexError):  # it has just ended, which `recv` tells
            return
        if pages * _PAGE > self.memory_bytes:
            raise OutOfBounds

    def _ensure(self) -> socket.socket:
        if self._connection is not None:
            return self._connection
        import posttrain

        ours, theirs = socket.socketpair()
        with theirs:
            root = str(Path(posttrain.__file__).parent.parent)
            path = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH")) if p)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "posttrain.rewards.mixture.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,
            )
        self._connection = ours
        service = self._service
        try:
            ours.settimeout(START_TIMEOUT_S)
            worker.send(ours, (service.module, service.attribute, service.arguments, sys.path))
            outcome, value = self._receive(time.monotonic() + START_TIMEOUT_S)
        except OutOfBounds:
            self._kill()
            raise LoadFailed(f"over {self.memory_bytes >> 20} MiB of memory while loading") from None
        except TimeoutError:
            self._kill()
            raise LoadFailed(f"not loaded within {START_TIMEOUT_S:g} s") from None
        except (EOFError, OSError):
            raise LoadFailed(f"the process died while loading ({self._kill()})") from None
        if outcome != "ready":
            self._kill()
            raise LoadFailed(value)
        self._wants = value
        return ours

    def _kill(self) -> str:
        """Ends the process; says how it ended."""
        process, connection = self._process, self._connection
        self._process = self._connection = None
        if connection is not None:
            connection.close()
        if process is None:
            return "not running"
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.05)  # it may be dying already: its own exit code says more
        ended = process.poll()
        if ended is None:
            process.kill()
            process.wait()
            return "killed"
        return f"exit code {ended}" if ended >= 0 else f"signal {-ended}"


def call_rows(call: Callable[[Sequence[int], float], Sequence[T]], rows: int, timeout_s: float) -> list[T | RowError]:
    """`call(indices, timeout)` over all rows at once; where that fails, over ever smaller parts.

    So a row that kills or hangs its worker costs itself, not its batch. A part gets half the time of what it is
    a part of, at least an eighth of `timeout_s`; all together get four times `timeout_s`, starts of the process
    not counted. Rows that are left then, or after several failures without a success, fail with the last
    failure's text.
    """
    results: list[T | RowError] = [RowError("not reached", "unreached")] * rows
    waiting = [(list(range(rows)), timeout_s)] if rows else []
    budget, failures_in_a_row, detail = 4 * timeout_s, 0, ""
    while waiting:
        part, share = waiting.pop()
        if budget <= 0 or failures_in_a_row > _MAX_FAILURES_IN_A_ROW:
            for i in part:
                results[i] = RowError(detail, "unreached")
            continue
        share = min(share, budget)
        started = time.monotonic()
        try:
            values = call(part, share)
        except CallFailed as error:
            detail = str(error)
            if len(part) == 1:
                failures_in_a_row += 1
                results[part[0]] = RowError(detail, "call")
            else:
                middle, half = len(part) // 2, max(share / 2, timeout_s / 8)
                waiting += [(part[middle:], half), (part[:middle], half)]
        else:
            failures_in_a_row = 0
            for i, value in zip(part, values, strict=True):
                results[i] = value
        budget -= min(share, time.monotonic() - started)
    return results
