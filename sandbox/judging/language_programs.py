"""Judges programs in other languages: compiles once, runs each test in a fresh room, watches what they use."""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from posttrain.sandbox import codec
from posttrain.sandbox.isolation import zygote
from posttrain.sandbox.jobs import Job, Outcome, Verdict
from posttrain.sandbox.judging import programs
from posttrain.sandbox.judging.rounds import MAX_THREADS, STARVATION_FACTOR, Round, threads
from posttrain.sandbox.languages import COMPILE_MB, COMPILE_S, LANGUAGES, MAX_BINARY, Language, LanguageError, locate
from posttrain.sandbox.rooms.language_room import FAILED, SIGNALLED
from posttrain.sandbox.rooms.solution_room import MAX_CODE

MAX_PROCESSES = 64
WATCH_S = 0.02
"""Between two looks at what the room uses: what it can take in that time is above its limit at most."""
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, kw_only=True)
class _Ran:
    """What came of one command line."""

    outcome: Outcome | None
    """None where it ended by itself, or by a signal."""
    message: str = ""
    code: int = 0
    output: bytes = b""


def judge(control: socket.socket, job: Job, *, patient: bool) -> Verdict:
    """One room for the compiler, if there is one, then one for each pair. Raises HostBusy or ZygoteGone."""
    assert job.language is not None
    language = LANGUAGES[job.language]
    try:
        argv = [part.format(memory_mb=job.memory_mb) for part in language.run]
        argv[0] = locate(argv[0])
        files = {language.source: _packed(job.code.encode("utf-8", "replace"))}
        if language.compile:
            compiled = _compile(control, job, language, files, patient=patient)
            if compiled.outcome is not None:
                return Verdict(id=job.id, outcome=compiled.outcome, message=compiled.message, total=len(job.tests))
            files = {"program": _packed(compiled.output)}
    except LanguageError as error:
        return Verdict(id=job.id, outcome="infra_error", message=str(error))
    return programs.judge_pairs(
        job, lambda stdin, wanted: _judge_pair(control, job, language, argv, files, (stdin, wanted), patient)
    )


def _packed(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _compile(control: socket.socket, job: Job, language: Language, files: Mapping[str, str], *, patient: bool) -> _Ran:
    argv = [locate(language.compile[0]), *language.compile[1:]]
    limits = replace(job, timeout_s=COMPILE_S, memory_mb=COMPILE_MB)
    work = {"argv": argv, "files": files, "stdin": "", "gives": "program", "bounded": True}
    ran = _run(control, limits, work, MAX_BINARY, patient)
    if ran.outcome == "infra_error":
        return ran
    if ran.outcome is not None:
        return replace(ran, outcome="compile_error", message=f"the compiler: {ran.message}")
    if ran.code or not ran.output:
        return replace(ran, outcome="compile_error", message="the program doesn't compile")
    return ran


def _judge_pair(
    control: socket.socket, job: Job, language: Language, argv: list[str], files: Mapping[str, str],
    pair: tuple[str, str], patient: bool,
) -> tuple[Outcome, str, int]:  # fmt: skip
    stdin, expected = pair
    wanted = expected.encode("utf-8", "replace")
    work = {"argv": argv, "files": files, "stdin": stdin, "gives": "", "bounded": language.bounded_by_address_space}
    ran = _run(control, job, work, programs.OUTPUT_CAP + 2 * len(wanted), patient)
    if ran.outcome is not None:
        return ran.outcome, ran.message, 0
    if ran.code > SIGNALLED:
        return "crash", f"killed by signal {ran.code - SIGNALLED}", 0
    if ran.code == FAILED and language.exit_code_counts:
        return "crash", "the program failed", 0
    same = programs.same_output(ran.output, wanted, job.float_tolerance)
    return ("pass", "", 0) if same else ("wrong", "the output differs", 0)


def _run(control: socket.socket, job: Job, work: Mapping[str, object], cap: int, patient: bool) -> _Ran:
    round_ = Round(control, job, zygote.LANGUAGE, patient=patient, work=(codec.frame(work, MAX_CODE), b""))
    try:
        output, stopped = _watched(round_, job, cap, patient)
        ends = round_.finish()
    finally:
        round_.close()
    if not ends.locked:
        return _Ran(outcome="infra_error", message="the room couldn't be locked in")
    if stopped is None and ends.solution.cpu_s >= job.timeout_s:
        stopped = "timeout", f"more than {job.timeout_s:g} s of processor time"
    if stopped is not None:
        return _Ran(outcome=stopped[0], message=stopped[1])
    code = os.waitstatus_to_exitcode(ends.solution.status)
    return _Ran(outcome=None, code=code if code >= 0 else 0, output=output)


def _watched(round_: Round, job: Job, cap: int, patient: bool) -> tuple[bytes, tuple[Outcome, str] | None]:
    """What the room wrote until it ended, or why it has to."""
    output = bytearray()
    deadline, look = time.monotonic() + round_.wall_s, 0.0
    while True:
        chunk = round_.read_until(round_.second, 65536, WATCH_S)
        if chunk == b"":
            return bytes(output), None
        output += chunk or b""
        if len(output) > cap:
            return b"", ("output_limit", f"more than {cap} bytes of output")
        now = time.monotonic()
        if now > deadline and not (patient and now < deadline + _starved_s(round_)):
            return b"", ("timeout", f"no end within {round_.wall_s:g} s")
        if now >= look:
            look = now + WATCH_S
            if (reason := _over(round_.pids[0], job)) is not None:
                return b"", reason


def _starved_s(round_: Round) -> float:
    """Seconds that the room's processes stood ready but got no processor, as far as a patient judge waits for them."""
    waited = 0
    for process in _family(round_.pids[0]):
        with contextlib.suppress(OSError, IndexError, ValueError):
            waited += int(Path(f"/proc/{process}/schedstat").read_text().split()[1])
    return min(waited / 1e9, STARVATION_FACTOR * round_.wall_s)


def _over(pid: int, job: Job) -> tuple[Outcome, str] | None:
    processes = list(_family(pid))
    if len(processes) > MAX_PROCESSES:
        return "crash", f"more than {MAX_PROCESSES} processes"
    if sum(map(threads, processes)) > MAX_THREADS:
        return "crash", f"more than {MAX_THREADS} threads"
    resident = cpu = 0.0
    for process in processes[1:]:
        try:
            resident += int(Path(f"/proc/{process}/statm").read_text().split()[1]) * _PAGE
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            cpu += sum(map(int, fields[11:15])) / _TICKS
        except (OSError, IndexError):  # it has ended meanwhile
            continue
    if resident > job.memory_mb << 20:
        return "memory", f"more than {job.memory_mb} MiB of memory"
    if cpu >= job.timeout_s:
        return "timeout", f"more than {job.timeout_s:g} s of processor time"
    return None


def _family(pid: int) -> Iterator[int]:
    """A process and all below it: orphans are the room's first process's own."""
    yield pid
    try:
        children = " ".join(p.read_text() for p in Path(f"/proc/{pid}/task").glob("*/children")).split()
    except OSError:
        return
    for child in children:
        yield from _family(int(child))
