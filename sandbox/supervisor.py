"""The judge: one zygote, one job at a time, a verdict for each.

    Judge.run(job) -> round of rooms -> verdict of T, or output of S -> all reaped -> Verdict

The supervisor owns the wall clock and every cap. Nothing that a model wrote is parsed or compiled here.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from posttrain.errors import SandboxError
from posttrain.sandbox import codec
from posttrain.sandbox.isolation import preloads, zygote
from posttrain.sandbox.isolation.zygote_process import StartError, ZygoteProcess
from posttrain.sandbox.jobs import MAX_RESULTS, MESSAGE_CHARS, OUTCOMES, Job, Verdict
from posttrain.sandbox.judging import language_programs, programs
from posttrain.sandbox.judging.rounds import Ends, HostBusy, Round, ZygoteGone
from posttrain.sandbox.languages import LanguageError
from posttrain.sandbox.languages import check as check_languages
from posttrain.sandbox.rooms.solution_room import MAX_CODE, READY
from posttrain.sandbox.tester import tester_room

ATTEMPTS = 3
BUSY_PAUSE_S = 0.2
_FOLDER = Path(__file__).resolve().parent
BOOT = _FOLDER / "isolation" / "boot.py"


class Judge:
    """Runs jobs in fresh rooms of one zygote. `tier` is what this host allows: see `tiers.probe`.

    >>> with Judge("B") as judge:
    ...     judge.run(Job(id="1", code="def f(): return 1", tests=("assert f() == 1",))).outcome
    'pass'

    Jobs of several threads take turns. `patient`, for a process of low priority: a job's wall clock stands still
    while its rooms wait for a processor. `preload` names libraries that rooms can import (see `preloads`),
    `languages` what it runs besides Python (see `languages`). Raises SandboxError if the tier can't be put up here.
    """

    def __init__(
        self, tier: str = "B", *, patient: bool = False, preload: Sequence[str] = (), languages: Sequence[str] = ()
    ) -> None:
        self.tier = tier
        self._languages = tuple(languages)
        try:
            self._libraries = preloads.locate(preload)
        except preloads.PreloadError as error:
            fix = f"install it, or leave it out of `preload` (possible: {', '.join(preloads.ALLOWED)})"
            raise SandboxError(str(error), where="sandbox", fix=fix) from error
        self._patient = patient
        self._lock = threading.Lock()
        self._closed = False
        self._zygote = ZygoteProcess(str(BOOT), [str(_FOLDER)], [tier, *self._libraries], patient=patient)
        self._ready()
        self._zygote.rounds = 0  # no job yet

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def run(self, job: Job) -> Verdict:
        """The verdict; never raises for what the code does. `infra_error` if the sandbox itself failed, again and
        again, or the job can't be judged.
        """
        with self._lock:
            started = time.monotonic()
            verdict = self._run(job)
            return replace(verdict, seconds=round(time.monotonic() - started, 6))

    def _run(self, job: Job) -> Verdict:
        reason = "the judge is closed"
        for attempt in range(0 if self._closed else ATTEMPTS):
            try:
                return self._attempt(job, self._ready())
            except LanguageError as error:
                reason = str(error)
                break
            except codec.CodecError as error:
                reason = f"the tests can't be handed over: {error}"
                break
            except HostBusy as error:
                reason = str(error)
                time.sleep(BUSY_PAUSE_S * (attempt + 1))
            except (ZygoteGone, OSError, SandboxError) as error:
                reason = str(error)
                self._zygote.stop(kill=True)
                if isinstance(error, ZygoteGone) and error.late:  # what the rooms did is known: nothing
                    return Verdict(id=job.id, outcome="timeout", message="no verdict in time")
        return Verdict(id=job.id, outcome="infra_error", message=reason[:MESSAGE_CHARS])

    def open_room(self, job: Job, rooms: int) -> Round:
        """A room that stays open, under the job's limits: nothing else can be run until it is finished and closed.

        Raises HostBusy, ZygoteGone, OSError or SandboxError.
        """
        with self._lock:
            return Round(self._ready(), job, rooms, patient=self._patient)

    def close(self) -> None:
        """Ends the zygote and every room; later jobs get an infra_error."""
        with self._lock:
            self._closed = True
            self._zygote.stop()

    @property
    def zygote_pid(self) -> int | None:
        """The process that forks the rooms; None while there is none."""
        return self._zygote.process.pid if self._zygote.process is not None else None

    def _ready(self) -> socket.socket:
        """The control socket of a zygote that answers. Raises SandboxError or OSError."""
        try:
            return self._zygote.ready()
        except StartError as error:
            what = f"sandbox tier {self.tier} can't be put up: {error}"
            raise SandboxError(what, fix="run `posttrain doctor`") from error

    def _attempt(self, job: Job, control: socket.socket) -> Verdict:
        if job.language is not None:
            if job.language not in self._languages:
                raise LanguageError(f"language {job.language!r} isn't among those opted for (languages: [...])")
            check_languages([job.language], self.tier)
            return language_programs.judge(control, job, patient=self._patient)
        if job.kind == "stdio":
            return programs.judge(control, job, patient=self._patient)
        return _judge_tests(control, job, patient=self._patient)


def _judge_tests(control: socket.socket, job: Job, *, patient: bool) -> Verdict:
    if not programs.fits(job.code):
        return programs.too_large(job)
    code = codec.frame({"code": job.code}, MAX_CODE)
    spec: dict[str, object] = {"kind": job.kind, "tests": list(job.tests), "entry": list(job.entry)}
    spec |= {"stop": job.stop_on_first, "tolerance": job.float_tolerance}
    tests = codec.frame(spec, tester_room.MAX_TESTS)
    round_ = Round(control, job, zygote.BOTH, patient=patient, work=(code, tests))
    try:
        began, frame = _read_verdict(round_)
        ends = round_.finish()
        doubled = bool(round_.rest(round_.second, 1))
    finally:
        round_.close()
    stopped = round_.timed_out or round_.crowded
    if frame is None and (not ends.locked or not (began or stopped)):
        return Verdict(id=job.id, outcome="infra_error", message="a room couldn't be locked in")
    verdict = _unpack(job.id, frame) if frame is not None and not doubled else None
    return replace(_settle(job, verdict, ends, round_), denied=ends.denied)


def _read_verdict(round_: Round) -> tuple[bool, bytes | None]:
    """Whether T was locked in, and its verdict frame; None if there is none, or none whole."""
    head, cap = len(READY) + 4, tester_room.VERDICT.size + MAX_RESULTS + tester_room.MAX_MESSAGE
    buffer = b""
    while len(buffer) <= head + cap:
        chunk = round_.read(round_.second, 4096)
        if not chunk:
            break
        buffer += chunk
        if len(buffer) < head:
            continue
        (size,) = struct.unpack("!I", buffer[len(READY) : head])
        if not tester_room.VERDICT.size <= size <= cap or not buffer.startswith(READY):
            break
        if len(buffer) >= head + size:
            return True, buffer[head:] if len(buffer) == head + size else None
    return buffer.startswith(READY), None


def _unpack(job_id: str, frame: bytes) -> Verdict | None:
    outcome, passed, total, forged, told = tester_room.VERDICT.unpack_from(frame)
    indices = frame[tester_room.VERDICT.size :][:told]
    if outcome >= len(OUTCOMES) or passed > total or (OUTCOMES[outcome] == "pass" and passed != total):
        return None
    if len(indices) != told or told not in (0, total) or any(i >= len(tester_room.RESULTS) for i in indices):
        return None
    return Verdict(
        id=job_id,
        outcome=OUTCOMES[outcome],
        passed=passed,
        total=total,
        message=frame[tester_room.VERDICT.size + told :].decode("utf-8", "replace"),
        results=tuple(tester_room.RESULTS[i] for i in indices),
        forged=forged,
    )


def _settle(job: Job, verdict: Verdict | None, ends: Ends, round_: Round) -> Verdict:
    """Adds what the clocks know: a verdict never outweighs a limit."""
    base = verdict or Verdict(id=job.id, outcome="crash", total=0, message="the tests gave no verdict")
    if base.outcome == "infra_error":
        return base
    if round_.crowded:
        return replace(base, outcome="crash", message=round_.limit)
    if round_.timed_out:
        return replace(base, outcome="timeout", message=f"no verdict within {round_.limit}")
    spent = max(ends.solution.cpu_s, ends.tester.cpu_s if verdict is None else 0.0)
    if spent >= job.timeout_s or (base.outcome == "crash" and ends.solution.out_of_time(job.timeout_s)):
        return replace(base, outcome="timeout", message=f"more than {job.timeout_s:g} s of processor time")
    return base
