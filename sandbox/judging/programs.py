"""Whole programs: standard input in, standard output compared, bytes against bytes. There is no tester room."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Callable
from dataclasses import replace

from posttrain.sandbox import codec
from posttrain.sandbox.isolation import zygote
from posttrain.sandbox.jobs import MAX_RESULTS, Job, Outcome, Result, Verdict
from posttrain.sandbox.judging.rounds import Round
from posttrain.sandbox.rooms.program_room import DID_NOT_COMPILE, RAISED
from posttrain.sandbox.rooms.solution_room import MAX_CODE

OUTPUT_CAP = 64 << 10
"""Bytes of standard output kept beyond twice the expected output."""
_ENDS_A_JOB = ("timeout", "compile_error")
"""After these the rest of the tests would only cost time."""
_SIGKILL = 9


def fits(*texts: str) -> bool:
    """Whether code and input can be handed to a room: a character takes at most 12 bytes of JSON."""
    return 12 * sum(map(len, texts)) + 1000 < MAX_CODE


def too_large(job: Job) -> Verdict:
    """The verdict on code that doesn't fit."""
    return Verdict(id=job.id, outcome="compile_error", message=f"code and input exceed {MAX_CODE} bytes")


def judge(control: socket.socket, job: Job, *, patient: bool) -> Verdict:
    """A fresh room for every pair of input and expected output. Raises HostBusy or ZygoteGone."""
    return judge_pairs(job, lambda stdin, expected: _judge_pair(control, job, stdin, expected, patient))


def judge_pairs(job: Job, run: Callable[[str, str], tuple[Outcome, str, int]]) -> Verdict:
    """The verdict on all pairs; `run` gives (outcome, message, how often it tried what is never allowed) of one."""
    results: list[Result] = []
    first = Verdict(id=job.id, outcome="pass")
    denied = 0
    for number, (stdin, expected) in enumerate(job.tests, 1):
        if not fits(job.code, stdin):
            return too_large(job)
        outcome, message, tried = run(stdin, expected)
        if outcome == "infra_error":
            return Verdict(id=job.id, outcome=outcome, message=message)
        denied += tried
        results.append("pass" if outcome == "pass" else "failed")
        if outcome != "pass" and first.outcome == "pass":
            first = replace(first, outcome=outcome, message=f"test {number}: {message}")
        if outcome in _ENDS_A_JOB or (job.stop_on_first and outcome != "pass"):
            break
    passed, total = results.count("pass"), len(job.tests)
    results += ["not_run"] * (total - len(results))
    told = tuple(results) if total <= MAX_RESULTS else ()
    return replace(first, passed=passed, total=total, results=told, denied=denied)


def _judge_pair(control: socket.socket, job: Job, stdin: str, expected: str, patient: bool) -> tuple[Outcome, str, int]:
    """(outcome, message, how often it tried what is never allowed)."""
    wanted = expected.encode("utf-8", "replace")
    cap = OUTPUT_CAP + 2 * len(wanted)
    output = bytearray()
    frame = codec.frame({"code": job.code, "stdin": stdin}, MAX_CODE)
    round_ = Round(control, job, zygote.PROGRAM, patient=patient, work=(frame, b""))
    try:
        while len(output) <= cap and (chunk := round_.read(round_.second, 65536)):
            output += chunk
        ends = round_.finish()
    finally:
        round_.close()
    if not ends.locked:
        return "infra_error", "the room couldn't be locked in", 0
    if round_.crowded:
        return "crash", round_.limit, ends.denied
    if ends.solution.cpu_s >= job.timeout_s:
        return "timeout", f"more than {job.timeout_s:g} s of processor time", ends.denied
    if round_.timed_out:
        return "timeout", f"no end within {round_.limit}", ends.denied
    if len(output) > cap:
        return "output_limit", f"more than {cap} bytes of output", ends.denied
    same = same_output(bytes(output), wanted, job.float_tolerance)
    return *_outcome(ends.solution.status, same), ends.denied


def _outcome(status: int, same: bool) -> tuple[Outcome, str]:
    """Output is the only evidence for a program; how it ended can only speak against it."""
    code = os.waitstatus_to_exitcode(status)
    if code == DID_NOT_COMPILE:
        return "compile_error", "the program doesn't compile"
    if code < 0 and -code != _SIGKILL:  # that one is ours: it may have closed its output and lingered
        return "crash", f"killed by signal {-code}"
    if code == RAISED:
        return "crash", "the program raised an exception"
    return ("pass", "") if same else ("wrong", "the output differs")


def same_output(actual: bytes, wanted: bytes, tolerance: float | None = None) -> bool:
    """Equal up to white space at line ends and empty lines at the end; with a tolerance, word by word, and numbers
    within it, relative or absolute.

    >>> same_output(b"1 \\n2\\n\\n", b"1\\n2"), same_output(b"0.30000001", b"0.3", 1e-6)
    (True, True)
    """

    def lines(text: bytes) -> list[bytes]:
        return [line.rstrip() for line in text.rstrip().split(b"\n")]

    ours, theirs = lines(actual), lines(wanted)
    if ours == theirs or tolerance is None or len(ours) != len(theirs):
        return ours == theirs
    return all(_same_words(a.split(), b.split(), tolerance) for a, b in zip(ours, theirs, strict=True))


def _same_words(ours: list[bytes], theirs: list[bytes], tolerance: float) -> bool:
    return len(ours) == len(theirs) and all(
        a == b or _close(a, b, tolerance) for a, b in zip(ours, theirs, strict=True)
    )


def _close(ours: bytes, theirs: bytes, tolerance: float) -> bool:
    if max(len(ours), len(theirs)) > 400:  # no number that a float could hold
        return False
    try:
        a, b = float(ours), float(theirs)
    except ValueError:
        return False
    return math.isfinite(a) and math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance)
