"""Lists of hostile programs against the judge, with what they do besides: files, processes, memory, secrets, sockets.

    python benchmarks/sandbox_hostile.py CASES.py [MORE.py ...] [--tiers A B C] [--ways order shuffled crowd]

Each file defines CASES: mappings with name, code, tests, entry, expect (pass, fail or any) and observe (a list of side
conditions); as you like CANARY_DIR and PORT, which the programs know. `order` and `shuffled` put one program after the
other to one judge, with a control after each; `crowd` puts them to 32 judges at once. An infra_error counts as a miss:
a program that can cause one escapes its 0. Prints what was missed; the exit code is 1 if anything was.

Not looked at in a crowd: memory, and which of the programs left something behind (only that nothing was).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import queue
import random
import resource
import runpy
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil

from posttrain.errors import SandboxError
from posttrain.sandbox.jobs import Job, Verdict
from posttrain.sandbox.supervisor import Judge

Case = Mapping[str, Any]
CONTROL = Job(id="control", code="def f(x): return x + 1", tests=("assert f(1) == 2",), entry=("f",))
SECRET = "hunter2-of-the-host"
CROWD = 32
MARGIN_S, MARGIN_MB, DISK_MB, KEPT = 2.0, 256, 64, 64 << 10
_LOOK_S = 0.02


class Host:
    """What the programs must not reach: files, listeners, a secret, and this process's own state."""

    def __init__(self, canary: str, port: int) -> None:
        self.canary, self._port = Path(canary), port
        self.touched: list[str] = []
        self._stack = contextlib.ExitStack()
        os.environ["HOSTILE_SECRET"] = SECRET
        (self.canary / "ckpt").mkdir(parents=True, exist_ok=True)
        for path in self.canary.iterdir():
            if path.is_file():
                path.unlink()
        (self.canary / "secret.txt").write_text(SECRET)
        (self.canary / "ckpt" / "model.bin").write_bytes(bytes(range(256)) * 16)
        self._files, self._shared, self._own = self.files(), self.shared(), self.own()
        self._sockets = [self._listener(*kind) for kind in self._kinds()]

    def _kinds(self) -> Iterator[tuple[int, int, Any]]:
        yield socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", self._port)
        yield socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", self._port)
        yield socket.AF_UNIX, socket.SOCK_STREAM, "\0hostile_abs"

    def _listener(self, family: int, kind: int, address: Any) -> socket.socket:
        listener = self._stack.enter_context(socket.socket(family, kind))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        if kind == socket.SOCK_STREAM:
            listener.listen()
        listener.setblocking(False)
        return listener

    def files(self) -> dict[str, bytes]:
        return {str(p): p.read_bytes() for p in sorted(self.canary.rglob("*")) if p.is_file()}

    def shared(self) -> list[str]:
        return sorted(name for name in os.listdir("/dev/shm") if name.startswith(("sem.", "hostile", "psm_")))

    def own(self) -> tuple[Any, ...]:
        limits = tuple(resource.getrlimit(k) for k in range(16) if k != resource.RLIMIT_CPU)
        handlers = tuple(signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGIO, signal.SIGALRM))
        mask = os.umask(0)
        os.umask(mask)
        nice = os.getpriority(os.PRIO_PROCESS, 0)
        return limits, os.sched_getaffinity(0), nice, os.getcwd(), mask, handlers

    def harm(self) -> list[str]:
        """What is no longer as it was."""
        found = ["canary_intact"] if self.files() != self._files else []
        found += ["no_new_devshm"] if self.shared() != self._shared else []
        found += ["parent_untouched"] if self.own() != self._own else []
        for listener in self._sockets:
            with contextlib.suppress(BlockingIOError):
                heard = listener.recv(1) if listener.type == socket.SOCK_DGRAM else listener.accept()[0].close()
                found += [f"no_connect ({heard!r})"]
        return found

    def close(self) -> None:
        self._stack.close()


class Peak:
    """The most memory that this process's children have at a time, looked at again and again."""

    def __enter__(self) -> Peak:
        self.mb, self._done = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(_LOOK_S):
            total = 0
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    total += process.memory_info().rss - process.memory_info().shared
            self.mb = max(self.mb, total / (1 << 20))


def job_of(case: Case, options: argparse.Namespace) -> Job:
    names = case["entry"]
    entry = (names,) if isinstance(names, str) else tuple(names)
    return Job(id=case["name"], code=case["code"], tests=(case["tests"],), entry=entry,
               timeout_s=options.timeout_s, memory_mb=options.memory_mb)  # fmt: skip


def missed(case: Case, job: Job, verdict: Verdict, seconds: float) -> list[str]:
    """What the verdict itself says of these conditions."""
    outcome = verdict.outcome
    wrong = {"pass": outcome != "pass", "fail": outcome == "pass", "any": False}[case["expect"]]
    found = [f"expect {case['expect']}, got {outcome} ({verdict.message[:80]})"] if wrong else []
    found += [f"infra_error ({verdict.message[:80]})"] if outcome == "infra_error" else []
    found += [f"deadline: {seconds:.1f} s"] if seconds > 3 * job.timeout_s + 1 + MARGIN_S else []
    found += ["no_secret"] if SECRET in repr(verdict) else []
    found += ["output_bounded"] if len(verdict.message) > KEPT else []
    return found


def in_a_row(judge: Judge, host: Host, cases: Sequence[Case], options: argparse.Namespace) -> list[str]:
    """One program after the other, a control after each."""
    found = []
    checks = {c["name"].removeprefix("persist_check_"): c for c in cases if c["name"].startswith("persist_check_")}
    for case in cases:
        job, disk = job_of(case, options), psutil.disk_usage("/tmp").free
        with Peak() as peak:
            started = time.monotonic()
            verdict = judge.run(job)
            seconds = time.monotonic() - started
        wrong = missed(case, job, verdict, seconds) + host.harm()
        if peak.mb > options.memory_mb + MARGIN_MB:
            wrong.append(f"mem_bounded: {peak.mb:.0f} MiB")
        if disk - psutil.disk_usage("/tmp").free > DISK_MB << 20:
            wrong.append("disk_bounded")
        rooms = psutil.Process(judge.zygote_pid).children(recursive=True)
        wrong += ["no_survivors"] if rooms else []
        wrong += [o for o in case["observe"] if o.startswith("no_file:") and os.path.exists(o.partition(":")[2])]
        after = checks.get(case["name"].removeprefix("persist_")) if "no_leak_next" in case["observe"] else None
        if after is not None and judge.run(job_of(after, options)).outcome != "pass":
            wrong.append("no_leak_next")
        wrong += ["worker_alive"] if judge.run(CONTROL).outcome != "pass" else []
        found += [f"{case['name']}: {w}" for w in wrong]
        if options.verbose:
            print(f"    {case['name']:32} {verdict.outcome:14} {seconds:6.2f} s  {verdict.message[:70]!r}")
    return found


def at_once(tier: str, host: Host, cases: Sequence[Case], options: argparse.Namespace) -> list[str]:
    """As many programs at a time as there are judges."""
    found: list[str] = []
    idle: queue.SimpleQueue[Judge] = queue.SimpleQueue()
    with contextlib.ExitStack() as stack:
        judges = [stack.enter_context(Judge(tier)) for _ in range(CROWD)]
        for judge in judges:
            idle.put(judge)

        def run(case: Case) -> list[str]:
            judge, job = idle.get(), job_of(case, options)
            try:
                started = time.monotonic()
                verdict = judge.run(job)
                wrong = missed(case, job, verdict, time.monotonic() - started)
                wrong += ["worker_alive"] if judge.run(CONTROL).outcome != "pass" else []
            finally:
                idle.put(judge)
            return [f"{case['name']}: {w}" for w in wrong]

        with ThreadPoolExecutor(CROWD) as threads:
            for wrong in threads.map(run, cases):
                found += wrong
        left = [p for judge in judges for p in psutil.Process(judge.zygote_pid).children(recursive=True)]
        found += [f"no_survivors: {left}"] if left else []
    return found + host.harm()


def main() -> int:
    """Runs every way in every tier; 1 if something was missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("cases", nargs="+", type=Path)
    parser.add_argument("--tiers", nargs="+", default=["A", "B", "C"])
    parser.add_argument("--ways", nargs="+", default=["order", "shuffled", "crowd"])
    parser.add_argument("--timeout-s", type=float, default=1.0)
    parser.add_argument("--memory-mb", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    files = [runpy.run_path(str(path)) for path in options.cases]
    cases = [case for file in files for case in file["CASES"]]
    host = Host(files[0].get("CANARY_DIR", "/tmp/hostile_canary"), files[0].get("PORT", 47813))
    shuffled = random.Random(options.seed).sample(cases, len(cases))
    worst = 0
    for tier in options.tiers:
        for way in options.ways:
            started = time.monotonic()
            try:
                if way == "crowd":
                    found = at_once(tier, host, shuffled, options)
                else:
                    with Judge(tier) as judge:
                        found = in_a_row(judge, host, cases if way == "order" else shuffled, options)
            except SandboxError as error:
                print(f"tier {tier}: {error}")
                break
            worst |= bool(found)
            print(
                f"tier {tier}, {way:8} {len(cases)} programs, {len(found)} missed, {time.monotonic() - started:.0f} s"
            )
            for line in found:
                print(f"  {line}")
    host.close()
    left = [p for p in psutil.Process().children(recursive=True) if p.is_running()]
    print(f"left behind: {left or 'nothing'}")
    return int(bool(worst or left))


if __name__ == "__main__":
    sys.exit(main())
