"""The judge under fault: what breaks costs an infra error at most, and nothing stays behind."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

from posttrain.errors import SandboxError
from posttrain.sandbox import supervisor
from posttrain.sandbox.isolation import zygote_process
from posttrain.sandbox.jobs import Job, Verdict
from posttrain.sandbox.supervisor import Judge

T = TypeVar("T")
GOOD = Job(id="good", code="def f(): return 1", tests=("assert f() == 1",))
SLEEP = Job(id="sleep", code="import time\ndef f(): time.sleep(1000)", tests=("assert f()",), timeout_s=5)


@pytest.fixture(params=["A", "B"])
def judge(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Judge]:
    """A judge of its own for each test: it is broken there."""
    monkeypatch.setattr(zygote_process, "REPLY_TIMEOUT_S", 1.0)
    try:
        judge = Judge(request.param)
    except SandboxError as error:
        pytest.skip(str(error))
    with judge:
        yield judge


def zygote(judge: Judge) -> int:
    assert judge.zygote_pid is not None
    return judge.zygote_pid


def rooms_of(pid: int) -> list[psutil.Process]:
    """Both rooms of a job that runs, once they are there."""
    return wait_for(lambda: found if len(found := psutil.Process(pid).children()) == 2 else None)


def wait_for(probe: Callable[[], T | None], seconds: float = 20) -> T:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if (found := probe()) is not None:
            return found
        time.sleep(0.01)
    raise AssertionError("it never came")


def gone(processes: list[psutil.Process], seconds: float) -> bool:
    """Dead within so many seconds; whether someone has reaped an orphan is not the point."""

    def dead(process: psutil.Process) -> bool:
        try:
            return process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    deadline = time.monotonic() + seconds
    while not (found := all(map(dead, processes))) and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


def use_up_descriptors(held: list[int]) -> None:
    while True:
        held.append(os.open(os.devnull, os.O_RDONLY))


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_an_idle_zygote_that_fails_is_replaced(judge: Judge, fault: signal.Signals) -> None:
    before = zygote(judge)
    os.kill(before, fault)
    assert judge.run(GOOD).outcome == "pass"
    assert zygote(judge) != before
    assert not psutil.pid_exists(before)


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_a_zygote_that_fails_while_rooms_run_leaves_none(judge: Judge, fault: signal.Signals) -> None:
    verdicts: list[Verdict] = []
    thread = threading.Thread(target=lambda: verdicts.append(judge.run(Job(**{**SLEEP.__dict__, "timeout_s": 0.3}))))
    thread.start()
    rooms = rooms_of(zygote(judge))
    os.kill(zygote(judge), fault)
    thread.join(60)
    assert [v.outcome for v in verdicts] == ["timeout"]
    assert gone(rooms, 1)
    assert judge.run(GOOD).outcome == "pass"


def test_a_room_that_computes_for_long_gives_way(judge: Judge) -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    loop = Job(id="loop", code="while True: pass", tests=("assert f()",), timeout_s=1)
    thread = threading.Thread(target=judge.run, args=(loop,))
    thread.start()
    first = rooms_of(zygote(judge))[0]
    assert wait_for(lambda: True if first.nice() > own else None)
    thread.join()
    assert os.getpriority(os.PRIO_PROCESS, 0) == own
    assert psutil.Process(zygote(judge)).nice() == own


def test_the_host_ends_a_room_first_where_its_memory_is_short(judge: Judge) -> None:
    assert Path(f"/proc/{zygote(judge)}/oom_score_adj").read_text() == "1000\n"


@pytest.mark.parametrize("tier", ["A", "B"])
def test_rooms_end_with_their_supervisor(tier: str) -> None:
    script = f"""
        from posttrain.sandbox.jobs import Job
        from posttrain.sandbox.supervisor import Judge
        with Judge({tier!r}) as judge:
            print(judge.zygote_pid, flush=True)
            judge.run(Job(**{SLEEP.__dict__!r}))
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            pytest.skip(f"no tier {tier} here")
        family = [psutil.Process(int(line)), *rooms_of(int(line))]
        process.kill()
        assert gone(family, 1)


def test_without_descriptors_nothing_is_judged_and_then_all_is_well(judge: Judge) -> None:
    before = zygote(judge)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held: list[int] = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
        with pytest.raises(OSError, match="Too many open files"):
            use_up_descriptors(held)
        verdict = judge.run(GOOD)
    finally:
        for fd in held:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (verdict.outcome, "descriptors" in verdict.message) == ("infra_error", True)
    assert judge.run(GOOD).outcome == "pass"
    assert zygote(judge) == before


FAILING_FORK = """
import sys
sys.path.insert(0, {folder!r})
import errno, os, types

def main(folder, socket_fd, tier):
    for name, path in (("posttrain", []), ("posttrain.sandbox", [folder])):
        shell = types.ModuleType(name)
        shell.__path__ = path
        sys.modules[name] = shell
    from posttrain.sandbox.isolation import confinement, zygote
    fork, calls = confinement.fork_room, []

    def failing(isolated):
        calls.append(1)
        if len(calls) in {failing!r}:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return fork(isolated)

    confinement.fork_room = failing
    zygote.main(socket_fd, tier, [])

main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
"""


@pytest.mark.parametrize(
    ("failing", "outcome"),
    [((1,), "pass"), ((2,), "pass"), (tuple(range(100)), "infra_error")],
    ids=["the first room", "the second room", "always"],
)
def test_no_process_left_on_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, judge_b: Judge, failing: tuple[int, ...], outcome: str
) -> None:
    boot = tmp_path / "boot_with_failing_fork.py"
    boot.write_text(FAILING_FORK.format(folder=str(supervisor.BOOT.parent), failing=failing))
    monkeypatch.setattr(supervisor, "BOOT", boot)
    with Judge(judge_b.tier) as judge:
        before = zygote(judge)
        verdict = judge.run(GOOD)
        assert verdict.outcome == outcome, verdict
        assert psutil.Process(before).children() == []
        assert zygote(judge) == before
        if outcome == "infra_error":
            assert os.strerror(11) in verdict.message


def test_a_zygote_is_replaced_before_it_grows_old(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zygote_process, "ROUNDS_PER_ZYGOTE", 2)
    seen = []
    for _ in range(4):
        assert judge.run(GOOD).outcome == "pass"
        seen.append(zygote(judge))
    assert len(set(seen)) == 2


def test_a_job_that_can_not_be_handed_over_is_no_verdict_on_the_code(judge: Judge) -> None:
    job = Job(id="x", code="def f(): return 1", tests=(({1, 2}, 3),), kind="calls", entry=("f",))
    assert judge.run(job).outcome == "infra_error"
    assert judge.run(GOOD).outcome == "pass"


def test_a_long_row_of_jobs_leaves_nothing_behind(judge: Judge) -> None:
    def state() -> tuple[int, int, int]:
        me, other = psutil.Process(), psutil.Process(zygote(judge))
        return me.num_fds(), other.num_fds(), len(other.children(recursive=True))

    for _ in range(20):
        judge.run(GOOD)
    before, memory = state(), psutil.Process(zygote(judge)).memory_info().rss
    for _ in range(200):
        judge.run(GOOD)
    assert state() == before
    assert psutil.Process(zygote(judge)).memory_info().rss < memory + (2 << 20)
