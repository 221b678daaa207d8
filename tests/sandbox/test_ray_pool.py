"""Judges in Ray actors: order, and what happens when one dies."""

import os
import signal

import psutil
import pytest

from posttrain.sandbox.jobs import Job
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


def _cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_a_closed_judge_says_so(judge_b: Judge) -> None:
    judge = Judge(judge_b.tier)
    judge.close()
    verdict = judge.run(Job(id="x", code="", tests=("assert True",)))
    assert (verdict.outcome, judge._process) == ("infra_error", None)
