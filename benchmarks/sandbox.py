"""The two-room judge against three common ways to judge code: latency, verdicts a second, and who is fooled.

    python benchmarks/sandbox.py [--seconds 5] [--workers 1 2] [--soak 10000]

python -I -S    a fresh interpreter runs code and tests as one file; exit code 0 is a pass. No isolation.
fork + guard    as code benchmarks often do it: fork this process (which is small here: a trainer isn't), take away
                os.kill and its like, exec, send the result.
bwrap           the first one, within bubblewrap's namespaces (where it is installed).

Each worker judges one job after the other: a right answer with four asserts. `fooled` counts wrong programs that got a
pass, out of a few that lie about equality, leave early, or write what looks like a result. The soak run judges as many
jobs on one judge and looks at what grows.

Not covered: Ray (benchmarks of a stage cover it), programs on standard input, hosts with more than a few cores.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psutil

from posttrain.errors import SandboxError
from posttrain.sandbox.jobs import Job
from posttrain.sandbox.supervisor import Judge

CODE = "def add(a, b):\n    return a + b\n"
TESTS = "assert add(1, 2) == 3\nassert add(-4, 9) == 5\nassert add(0, 0) == 0\nassert add(10**12, 1) == 10**12 + 1\n"
FORGERIES = (
    "class E:\n    def __eq__(s, o): return True\ndef add(a, b): return E()",
    "class E(int):\n    def __eq__(s, o): return True\n    __hash__ = int.__hash__\ndef add(a, b): return E(0)",
    "import os\ndef add(a, b): os._exit(0)",
    "import sys\ndef add(a, b): return 0\nsys.exit(0)",
    "import sys\ndef add(a, b):\n    f = sys._getframe(1)\n    for k in list(f.f_globals.values()):\n"
    "        if isinstance(k, list): k[:] = ['passed']\n    import os\n    os._exit(0)",
    "import builtins\nbuiltins.exec = lambda *a: None\ndef add(a, b): return 0",
)
LIMIT_S = 10.0
RunOne = Callable[[str], bool]
"""Judges one program against TESTS: whether it passes."""
Way = Callable[[], contextlib.AbstractContextManager[RunOne]]


@dataclass(frozen=True, kw_only=True)
class Row:
    """What was measured of one way to judge."""

    name: str
    p50_ms: float
    p99_ms: float
    rates: tuple[float, ...]
    """Verdicts a second, one for each number of workers."""
    fooled: str


@contextlib.contextmanager
def two_rooms(tier: str) -> Iterator[RunOne]:
    """The judge itself."""
    with Judge(tier) as judge:
        yield lambda code: judge.run(Job(id="1", code=code, tests=(TESTS,), entry=("add",))).outcome == "pass"


@contextlib.contextmanager
def one_file(*prefix: str) -> Iterator[RunOne]:
    """Code and tests as one file for a new interpreter."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "program.py")

        def run(code: str) -> bool:
            with open(path, "w") as file:
                file.write(f"{code}\n{TESTS}")
            command = [*prefix, sys.executable, "-I", "-S", path]
            done = subprocess.run(command, capture_output=True, timeout=LIMIT_S, check=False)
            return done.returncode == 0

        yield run


@contextlib.contextmanager
def forked() -> Iterator[RunOne]:
    """A child of this process with a guard, that says how it went."""
    yield _run_forked


def _run_forked(code: str) -> bool:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _child(code, writer)
        finally:
            os._exit(1)
    os.close(writer)
    try:
        ready, _, _ = select.select([reader], [], [], LIMIT_S)
        return bool(ready) and os.read(reader, 16) == b"passed"
    finally:
        os.close(reader)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _child(code: str, writer: int) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    result: list[str] = []
    scope = {"result": result}
    leave = os._exit
    for name in ("kill", "system", "fork", "remove", "rename", "rmdir", "chmod", "chown"):
        setattr(os, name, None)
    try:
        exec(f"{code}\n{TESTS}", scope)
        result.append("passed")
    except BaseException:  # noqa: BLE001  the program may raise anything
        result.append("failed")
    os.write(writer, result[0].encode())
    leave(0)


def bwrap() -> tuple[str, ...]:
    """The command that a program is put behind."""
    return ("bwrap", "--ro-bind", "/", "/", "--tmpfs", "/run", "--dev", "/dev", "--unshare-all", "--die-with-parent")


def measure(
    name: str, make: Callable[[], contextlib.AbstractContextManager[RunOne]], options: argparse.Namespace
) -> Row:
    """Latency on one worker, and throughput on each number of them."""
    with make() as run:
        for _ in range(5):
            if not run(CODE):
                raise SystemExit(f"{name} fails a right answer")
        fooled = sum(_survives(run, code) for code in FORGERIES)
    rates, latencies = [], [0.0]
    for workers in options.workers:
        found = throughput(make, workers, options.seconds)
        rates.append(len(found) / options.seconds)
        latencies = sorted(found) if workers == options.workers[0] else latencies
    return Row(
        name=name,
        p50_ms=1e3 * latencies[len(latencies) // 2],
        p99_ms=1e3 * latencies[int(0.99 * len(latencies))],
        rates=tuple(rates),
        fooled=f"{fooled} of {len(FORGERIES)}",
    )


def _survives(run: RunOne, code: str) -> bool:
    try:
        return run(code)
    except (OSError, subprocess.SubprocessError):
        return False


def throughput(make: Way, workers: int, seconds: float) -> list[float]:
    """Seconds that each job took, of all workers together."""
    found: list[float] = []
    with contextlib.ExitStack() as stack:
        runs = [stack.enter_context(make()) for _ in range(workers)]
        end = time.monotonic() + seconds

        def work(run: RunOne) -> None:
            while (started := time.monotonic()) < end:
                run(CODE)
                found.append(time.monotonic() - started)

        threads = [threading.Thread(target=work, args=(run,)) for run in runs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return found


def soak(tier: str, jobs: int) -> list[tuple[str, str, str]]:
    """(what, before, after) of so many jobs on one judge, a forging one among ten."""
    with Judge(tier) as judge:

        def state() -> dict[str, float]:
            me, zygote = psutil.Process(), psutil.Process(judge.zygote_pid)
            zombies = sum(p.status() == psutil.STATUS_ZOMBIE for p in me.children(recursive=True))
            return {
                "RSS of the supervisor, MiB": me.memory_info().rss / (1 << 20),
                "RSS of the zygote, MiB": zygote.memory_info().rss / (1 << 20),
                "descriptors of the supervisor": me.num_fds(),
                "descriptors of the zygote": zygote.num_fds(),
                "threads": me.num_threads(),
                "zombies": zombies,
            }

        def run(number: int) -> str:
            code = FORGERIES[number // 10 % len(FORGERIES)] if number % 10 == 0 else CODE
            return judge.run(Job(id=str(number), code=code, tests=(TESTS,), entry=("add",))).outcome

        for number in range(200):
            run(number)
        before = state()
        passed = sum(run(number) == "pass" for number in range(jobs))
        after = state()
    rows = [(what, f"{value:.1f}", f"{after[what]:.1f}") for what, value in before.items()]
    return [*rows, (f"passes, of {jobs - len(range(0, jobs, 10))} right answers", "", str(passed))]


def table(title: str, head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """A rich table on a terminal, plain columns elsewhere."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        shown = Table(*head, title=title)
        for row in rows:
            shown.add_row(*row)
        Console().print(shown)
        return
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    print(title)
    for row in (head, *rows):
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def main() -> None:
    """Measures everything and prints it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each measurement")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--soak", type=int, default=10_000, help="jobs of the soak run; 0: none")
    options = parser.parse_args()
    ways: dict[str, Way] = {}
    for tier in ("A", "B", "C"):
        with contextlib.suppress(SandboxError), Judge(tier):
            ways[f"two rooms, tier {tier}"] = lambda tier=tier: two_rooms(tier)  # type: ignore[misc]
    strongest = next(iter(ways), "")[-1:]
    ways |= {"python -I -S": one_file, "fork + guard": forked}
    if shutil.which("bwrap"):
        ways["bwrap + python"] = lambda: one_file(*bwrap())
    rows = [measure(name, make, options) for name, make in ways.items()]
    reference = next(row for row in rows if row.name == "python -I -S")
    head = ("", "p50 ms", "p99 ms", *(f"a second, {n}" for n in options.workers), "of python -I -S", "fooled")
    table(
        f"Judging one job with four asserts, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        head,
        [
            (r.name, f"{r.p50_ms:.1f}", f"{r.p99_ms:.1f}", *(f"{x:.0f}" for x in r.rates),
             f"{r.rates[-1] / reference.rates[-1]:.2f}", r.fooled)
            for r in rows
        ],
    )  # fmt: skip
    if options.soak and strongest:
        table(
            f"{options.soak} jobs on one judge, tier {strongest}",
            ("", "before", "after"),
            soak(strongest, options.soak),
        )


if __name__ == "__main__":
    main()
