"""The judge: one zygote, one job at a time, a verdict for each.

    Judge.run(job) -> round of rooms -> verdict of T, or output of S -> all reaped -> Verdict

The supervisor owns the wall clock and every cap. Nothing that a model wrote is parsed or compiled here.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from posttrain.errors import SandboxError
from posttrain.sandbox import codec, tester_room, zygote
from posttrain.sandbox.jobs import MESSAGE_CHARS, OUTCOMES, Job, Outcome, Verdict
from posttrain.sandbox.rounds import Report, Round, ZygoteGone
from posttrain.sandbox.solution_room import MAX_CODE, READY

OUTPUT_CAP = 64 << 10
"""Bytes of standard output kept beyond twice the expected output."""
START_TIMEOUT_S = 60.0
REPLY_TIMEOUT_S = 30.0


class Judge:
    """Runs jobs in fresh rooms of one zygote. `tier` is what this host allows: see `tiers.probe`.

    >>> with Judge("B") as judge:
    ...     judge.run(Job(id="1", code="def f(): return 1", tests=("assert f() == 1",))).outcome
    'pass'

    Jobs of several threads take turns. Raises SandboxError if the tier can't be put up on this host.
    """

    def __init__(self, tier: str = "B") -> None:
        self.tier = tier
        self._lock = threading.Lock()
        self._closed = False
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def run(self, job: Job) -> Verdict:
        """The verdict; never raises for what the code does. `infra_error` if the sandbox itself failed twice."""
        with self._lock:
            started = time.monotonic()
            if self._closed:
                return Verdict(id=job.id, outcome="infra_error", message="the judge is closed")
            try:
                verdict = self._attempt(job)
            except (codec.CodecError, TypeError) as error:
                message = f"the tests can't be handed over: {error}"
                verdict = Verdict(id=job.id, outcome="infra_error", message=message[:MESSAGE_CHARS])
            except (ZygoteGone, OSError):
                try:
                    self._stop()
                    self._start()
                    verdict = self._attempt(job)
                except (ZygoteGone, OSError, SandboxError) as error:
                    verdict = Verdict(id=job.id, outcome="infra_error", message=str(error)[:MESSAGE_CHARS])
            return replace(verdict, seconds=round(time.monotonic() - started, 6))

    def close(self) -> None:
        """Ends the zygote and every room; later jobs get an infra_error."""
        with self._lock:
            self._closed = True
            self._stop()

    # ------------------------------------------------------------ the zygote

    def _start(self) -> None:
        folder = str(Path(__file__).resolve().parent)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [
                sys.executable,
                "-I",
                "-S",
                os.path.join(folder, "boot.py"),
                folder,
                str(theirs.fileno()),
            ]
            self._process = subprocess.Popen(
                [*command, self.tier],
                env={},
                cwd="/",
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # a Ctrl-C of the terminal is for the command, not for its judges
            )
        self._control = ours
        ours.settimeout(START_TIMEOUT_S)
        try:
            answer = ours.recv(1000)
        except OSError as error:
            answer = str(error).encode()
        if answer != b"ok":
            self._stop()
            reason = answer.decode("utf-8", "replace") or "the zygote died at start"
            raise SandboxError(f"sandbox tier {self.tier} can't be put up: {reason}", fix="run `posttrain doctor`")
        ours.settimeout(REPLY_TIMEOUT_S)

    def _stop(self) -> None:
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            try:
                self._process.wait(timeout=5)  # it ends by itself when its socket closes
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._control = self._process = None

    def _attempt(self, job: Job) -> Verdict:
        if self._control is None:
            raise ZygoteGone("the zygote isn't running")
        return _judge_stdio(self._control, job) if job.kind == "stdio" else _judge_tests(self._control, job)


def _too_large(job: Job) -> Verdict:
    return Verdict(id=job.id, outcome="compile_error", message=f"code and input exceed {MAX_CODE} bytes")


def _fits(*texts: str) -> bool:
    return 12 * sum(map(len, texts)) + 1000 < MAX_CODE  # a character takes at most 12 bytes of JSON


def _judge_tests(control: socket.socket, job: Job) -> Verdict:
    if not _fits(job.code):
        return _too_large(job)
    round_ = Round(control, job, zygote.BOTH)
    try:
        round_.send(round_.code, {"code": job.code}, MAX_CODE)
        spec = {"kind": job.kind, "tests": list(job.tests), "entry": list(job.entry)}
        round_.send(round_.second, spec, tester_room.MAX_TESTS)
        frame = _read_verdict(round_)
        solution, tester, locked = round_.finish()
        doubled = bool(round_.rest(round_.second, 1))
    finally:
        round_.close()
    if frame is None and not locked:
        return Verdict(id=job.id, outcome="infra_error", message="a room couldn't be locked in")
    verdict = _unpack(job.id, frame) if frame is not None and not doubled else None
    return _settle(job, verdict, solution, tester, round_.timed_out)


def _read_verdict(round_: Round) -> bytes | None:
    """The verdict frame of T; None if there is none, or none whole."""
    cap = tester_room.VERDICT.size + tester_room.MAX_MESSAGE
    buffer = b""
    while len(buffer) <= len(READY) + 4 + cap:
        chunk = round_.read(round_.second, 4096)
        if not chunk:
            return None
        buffer += chunk
        head = len(READY) + 4
        if len(buffer) < head:
            continue
        (size,) = struct.unpack("!I", buffer[len(READY) : head])
        if not tester_room.VERDICT.size <= size <= cap or not buffer.startswith(READY):
            return None
        if len(buffer) >= head + size:
            return buffer[head:] if len(buffer) == head + size else None
    return None


def _unpack(job_id: str, frame: bytes) -> Verdict | None:
    outcome, passed, total = tester_room.VERDICT.unpack_from(frame)
    if outcome >= len(OUTCOMES) or passed > total or (OUTCOMES[outcome] == "pass" and passed != total):
        return None
    message = frame[tester_room.VERDICT.size :].decode("utf-8", "replace")
    return Verdict(id=job_id, outcome=OUTCOMES[outcome], passed=passed, total=total, message=message)


def _settle(job: Job, verdict: Verdict | None, solution: Report, tester: Report, timed_out: bool) -> Verdict:
    """Adds what the clocks know: a verdict never outweighs a limit."""
    base = verdict or Verdict(id=job.id, outcome="crash", total=0, message="the tests gave no verdict")
    if base.outcome == "infra_error":
        return base
    if timed_out:
        return replace(base, outcome="timeout", message=f"no verdict within {3 * job.timeout_s + 1:g} s")
    spent = max(solution.cpu_s, tester.cpu_s if verdict is None else 0.0)
    if spent >= job.timeout_s:
        return replace(base, outcome="timeout", message=f"more than {job.timeout_s:g} s of processor time")
    return base


# ---------------------------------------------------------------- standard input and output


def _judge_stdio(control: socket.socket, job: Job) -> Verdict:
    """A fresh room for every pair; the comparison happens here, on bytes."""
    passed, first = 0, Verdict(id=job.id, outcome="pass")
    for number, (stdin, expected) in enumerate(job.tests):
        if not _fits(job.code, stdin):
            return _too_large(job)
        outcome, message = _judge_pair(control, job, stdin, expected)
        if outcome == "infra_error":
            return Verdict(id=job.id, outcome=outcome, message=message)
        passed += outcome == "pass"
        if outcome != "pass" and first.outcome == "pass":
            first = replace(first, outcome=outcome, message=f"test {number + 1}: {message}")
        if outcome in ("timeout", "compile_error"):  # the rest would only cost time
            break
    return replace(first, passed=passed, total=len(job.tests))


def _judge_pair(control: socket.socket, job: Job, stdin: str, expected: str) -> tuple[Outcome, str]:
    wanted = expected.encode("utf-8", "replace")
    cap = OUTPUT_CAP + 2 * len(wanted)
    output = bytearray()
    round_ = Round(control, job, zygote.PROGRAM)
    try:
        round_.send(round_.code, {"code": job.code, "stdin": stdin}, MAX_CODE)
        while len(output) <= cap and (chunk := round_.read(round_.second, 65536)):
            output += chunk
        solution, _, locked = round_.finish()
    finally:
        round_.close()
    if not locked:
        return "infra_error", "the room couldn't be locked in"
    if solution.cpu_s >= job.timeout_s:
        return "timeout", f"more than {job.timeout_s:g} s of processor time"
    if round_.timed_out:
        return "timeout", f"no end within {round_.wall_s:g} s"
    if len(output) > cap:
        return "output_limit", f"more than {cap} bytes of output"
    if _same_output(bytes(output), wanted):
        return "pass", ""
    return _why_wrong(solution.status)


def _same_output(actual: bytes, wanted: bytes) -> bool:
    """Equal up to white space at line ends and empty lines at the end."""

    def lines(text: bytes) -> list[bytes]:
        return [line.rstrip() for line in text.rstrip().split(b"\n")]

    return lines(actual) == lines(wanted)


def _why_wrong(status: int) -> tuple[Outcome, str]:
    code = os.waitstatus_to_exitcode(status)
    if code == 3:
        return "compile_error", "the program doesn't compile"
    if code < 0 and -code != 9:
        return "crash", f"killed by signal {-code}"
    return ("crash", "the program raised an exception") if code == 2 else ("wrong", "the output differs")
