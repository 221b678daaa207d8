"""A stateful Python interpreter in a room of its own, for agents that use tools.

    with Session("B") as session:
        session.run("x = 20")
        session.run("print('hi'); x + 1")      # Cell(outcome="ok", output="hi\\n", value="21")

Cells share one namespace, as in a notebook. Nothing a cell says is evidence of anything: what comes back is text for
the model that wrote the cell. Limits are those of a job: processor time and memory over the whole session; the wall
clock a cell. A cell that breaks a limit ends the session; later cells say so.
"""

from __future__ import annotations

import contextlib
import json
import math
import struct
import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

from posttrain.errors import SandboxError
from posttrain.sandbox import codec
from posttrain.sandbox.isolation import zygote
from posttrain.sandbox.jobs import Job
from posttrain.sandbox.judging.rounds import LOOK_S, HostBusy, ZygoteGone
from posttrain.sandbox.rooms.cells import MAX_REPLY, MAX_TEXT
from posttrain.sandbox.rooms.solution_room import MAX_CODE, READY
from posttrain.sandbox.supervisor import Judge

CellOutcome = Literal["ok", "error", "timeout", "memory", "ended", "infra_error"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What one cell gave.

    >>> Cell(outcome="ok", output="hi\\n", value="21", seconds=0.001)
    """

    outcome: CellOutcome
    """ok, or error (it raised, or doesn't compile): the session goes on. timeout, ended (it left or died): the
    session is over. memory: a MemoryError, after which it may go on. infra_error: the sandbox failed."""
    output: str = ""
    """What it printed to standard output and error, at most MAX_TEXT characters."""
    value: str = ""
    """repr of the last line, if that is an expression and not None; at most MAX_TEXT characters."""
    error: str = ""
    """The traceback, without our own frames."""
    seconds: float = 0.0
    """Wall clock."""


class Session:
    """One interpreter. Cells of several threads take turns.

    `timeout_s` is processor time of the whole session, seconds; a cell's wall clock is 3 times `cell_timeout_s` and
    one second more. `memory_mb` is MiB above what an idle room has. Raises SandboxError if the tier can't be put up.
    """

    def __init__(
        self, tier: str = "B", *, timeout_s: float = 60.0, cell_timeout_s: float = 5.0, memory_mb: int = 1024
    ) -> None:
        self._job = Job(id="session", code="", tests=(), timeout_s=timeout_s, memory_mb=memory_mb)
        self._wall_s = 3 * cell_timeout_s + 1
        self._lock = threading.Lock()
        self._over = ""
        self._judge = Judge(tier)
        try:
            self._round = self._judge.open_room(self._job, zygote.SESSION)
            self._await_lock()
        except (HostBusy, ZygoteGone, OSError) as error:
            self._judge.close()
            raise SandboxError(f"no room for a session: {error}", fix="run `posttrain doctor`") from error

    def run(self, code: str) -> Cell:
        """Runs one cell; never raises for what it does."""
        with self._lock:
            started = time.monotonic()
            if self._over:
                return Cell(outcome="ended", error=self._over)
            try:
                frame = codec.frame({"code": code}, MAX_CODE)
            except codec.CodecError as error:
                return Cell(outcome="error", error=str(error))
            deadline = started + self._wall_s
            self._round.send(self._round.second, frame)
            cell = self._answer(deadline)
            return Cell(**{**cell.__dict__, "seconds": round(time.monotonic() - started, 6)})

    def close(self) -> None:
        """Ends the interpreter and everything it started."""
        with self._lock:
            self._end("the session is closed")
            self._judge.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _await_lock(self) -> None:
        if self._round.read(self._round.second, len(READY)) != READY:
            self._round.close()
            raise ZygoteGone("the room couldn't be locked in")

    def _answer(self, deadline: float) -> Cell:
        reply = self._read(deadline)
        if isinstance(reply, Cell):
            return reply
        try:
            outcome, output, value, error = json.loads(reply)
            if outcome not in ("ok", "error", "memory"):
                raise ValueError(outcome)
            texts = [str(text)[:MAX_TEXT] for text in (output, value, error)]
        except (ValueError, TypeError, RecursionError):
            return self._end("the interpreter answered nonsense")
        return Cell(outcome=outcome, output=texts[0], value=texts[1], error=texts[2])

    def _read(self, deadline: float) -> bytes | Cell:
        buffer = bytearray()
        while True:
            size = struct.unpack("!I", buffer[:4])[0] if len(buffer) >= 4 else 0
            if size > MAX_REPLY or len(buffer) > 4 + max(size, 0) > 4:
                return self._end("the interpreter answered nonsense")
            if len(buffer) >= 4 and len(buffer) == 4 + size:
                return bytes(buffer[4:])
            left = deadline - time.monotonic()
            chunk = self._round.read_until(self._round.second, 65536, min(left, LOOK_S))
            if chunk is None and self._round.overcrowded():
                return self._end(self._round.limit)
            if chunk is None and left > LOOK_S:
                continue
            if chunk is None:
                return self._end(f"no answer within {self._wall_s:g} s", outcome="timeout")
            if not chunk:
                return self._end("the interpreter ended: it left, crashed, or used up its processor time")
            buffer += chunk

    def _end(self, reason: str, outcome: Literal["ended", "timeout"] = "ended") -> Cell:
        if not self._over:
            self._over = reason
            spent, killed = self._round.spent_s(), False  # known whether or not the zygote answers in time
            enough = 0.7  # the kernel's ticks say too little on a loaded host; the zygote's own report is exact
            with contextlib.suppress(ZygoteGone):
                report = self._round.finish().solution
                spent, killed = max(spent, report.cpu_s), report.out_of_time(self._job.timeout_s)
                enough = 0.95
            if spent >= enough * self._job.timeout_s or (killed and outcome == "ended"):
                outcome, self._over = "timeout", f"more than {math.ceil(self._job.timeout_s)} s of processor time"
            self._round.close()
        return Cell(outcome=outcome, error=self._over)
