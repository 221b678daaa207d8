"""Judges in Ray actors: order, and what happens when one dies."""

import os
import signal
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest

from posttrain.sandbox.jobs import Job, Verdict
from posttrain.sandbox.pool import SandboxPool
from posttrain.sandbox.supervisor import Judge


@pytest.mark.usefixtures("ray_session", "judge_b")
def test_a_worker_that_dies_is_replaced() -> None:
    jobs = [Job(id=str(i), code=f"def f(): return {i}", tests=(f"assert f() == {i}",)) for i in range(20)]
    with SandboxPool(2, "C") as pool:
        assert [v.id for v in pool.judge(jobs)] == [j.id for j in jobs]
        workers = [p for p in psutil.Process().children(recursive=True) if "_Worker" in " ".join(_cmdline(p))]
        assert all(p.nice() == 19 for p in workers)
        os.kill(workers[0].pid, signal.SIGKILL)
        assert {v.outcome for v in pool.judge(jobs)} == {"pass"}


@pytest.mark.usefixtures("ray_session", "judge_b")
def test_an_infra_error_is_tried_again_on_another_worker_and_threads_may_share_the_pool() -> None:
    hopeless = Job(id="hopeless", code="def f(): return 1", tests=("x = 1",))
    jobs = [Job(id=str(i), code=f"def f(): return {i}", tests=(f"assert f() == {i}",)) for i in range(12)]
    with SandboxPool(2, "C") as pool:
        asked: list[tuple[str, int | None]] = []
        real_pass = pool._pass

        def spy(these: Sequence[Job], verdicts: list[Verdict], batches: list[Any]) -> dict[int, int]:
            used = real_pass(these, verdicts, batches)
            asked.extend((these[i].id, used[i]) for b in batches for i in b.jobs if these[i].id == "hopeless")
            return used

        pool._pass = spy  # type: ignore[method-assign]
        with ThreadPoolExecutor(3) as threads:
            found = list(threads.map(pool.judge, [jobs, [hopeless], jobs]))
        counted = pool.metrics()
    assert [[v.outcome for v in verdicts] for verdicts in found] == [["pass"] * 12, ["infra_error"], ["pass"] * 12]
    assert len({worker for _, worker in asked}) == len(asked) == 2
    assert counted["jobs"] == 25


def _cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_a_closed_judge_says_so(judge_b: Judge) -> None:
    judge = Judge(judge_b.tier)
    judge.close()
    verdict = judge.run(Job(id="x", code="", tests=("assert True",)))
    assert (verdict.outcome, judge.zygote_pid) == ("infra_error", None)


@pytest.mark.usefixtures("ray_session", "judge_b")
def test_equal_jobs_are_run_once_and_answered_each() -> None:
    jobs = [Job(id=str(i), code=f"# {i % 2}\ndef f(): return 1", tests=("assert f() == 1",)) for i in range(6)]
    with SandboxPool(1, "C") as pool:
        asked: list[str] = []
        real_pass = pool._pass

        def spy(these: Sequence[Job], verdicts: list[Verdict], batches: list[Any]) -> dict[int, int]:
            asked.extend(job.id for job in these)
            return real_pass(these, verdicts, batches)

        pool._pass = spy  # type: ignore[method-assign]
        verdicts = pool.judge(jobs)
        counted = pool.metrics()
    assert [(v.id, v.outcome) for v in verdicts] == [(j.id, "pass") for j in jobs]
    assert (asked, counted["jobs"], counted["pass"]) == (["0", "1"], 6, 1)
