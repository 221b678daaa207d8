"""Many judges: threads here (`LocalJudgePool`), or Ray actors on any node (`SandboxPool`).

The only file of this room that imports Ray, and only once a `SandboxPool` is made.
"""

from __future__ import annotations

import contextlib
import os
import queue
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from posttrain.errors import SandboxError
from posttrain.sandbox.jobs import Job, Verdict
from posttrain.sandbox.rounds import STARVATION_FACTOR
from posttrain.sandbox.supervisor import Judge
from posttrain.sandbox.tiers import TierReport, require

_BATCH = 8
"""Jobs a call: a Ray call costs about a millisecond, a job about ten."""
_START_TIMEOUT_S = 120.0


class LocalJudgePool:
    """Judges on this machine, one a thread. For the command line, tests, and runs without Ray.

    Raises SandboxError if the host allows less than `min_tier`.
    """

    def __init__(self, workers: int = 1, min_tier: str = "B") -> None:
        self.report = require(min_tier)
        self._judges: queue.SimpleQueue[Judge] = queue.SimpleQueue()
        self._all = [Judge(self.report.tier) for _ in range(workers)]
        for judge in self._all:
            self._judges.put(judge)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="judge")

    def judge(self, jobs: Sequence[Job]) -> list[Verdict]:
        """One verdict a job, in order; bounded by the jobs' own wall clocks."""
        return list(self._threads.map(self._run, jobs))

    def _run(self, job: Job) -> Verdict:
        judge = self._judges.get()
        try:
            return judge.run(job)
        finally:
            self._judges.put(judge)

    def close(self) -> None:
        """Waits for running jobs, then ends all processes."""
        self._threads.shutdown()
        for judge in self._all:
            judge.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class _Worker:
    """The body of an actor: one judge, on its own node."""

    def __init__(self, min_tier: str) -> None:
        os.nice(19)  # code of a model must never slow the learner
        self._report = require(min_tier)
        self._judge = Judge(self._report.tier)

    def report(self) -> TierReport:
        return self._report

    def run(self, jobs: list[Job]) -> list[Verdict]:
        return [self._judge.run(job) for job in jobs]


class SandboxPool:
    """Judges in Ray actors, one each. Ray must be initialised.

    An actor that dies or doesn't answer is replaced; its jobs, and those that got an infra_error, run once more
    on another one. Raises SandboxError if a node allows less than `min_tier`.
    """

    def __init__(self, workers: int = 1, min_tier: str = "B") -> None:
        import ray

        self._ray = ray
        self._min_tier = min_tier
        self._actor_class = ray.remote(num_cpus=0, max_restarts=0)(_Worker)
        self._actors = [self._actor_class.remote(min_tier) for _ in range(workers)]
        try:
            reports = ray.get([a.report.remote() for a in self._actors], timeout=_START_TIMEOUT_S)
        except (ray.exceptions.RayError, TimeoutError) as error:
            self.close()
            cause = getattr(error, "cause", None)
            if isinstance(cause, SandboxError):
                raise cause from None
            raise SandboxError(f"a sandbox worker doesn't start: {error}") from error
        self.report = max(reports, key=lambda r: r.tier)  # the weakest node's

    def judge(self, jobs: Sequence[Job]) -> list[Verdict]:
        """One verdict a job, in order. Waits no longer than the jobs' own wall clocks allow."""
        verdicts = self._pass(jobs)
        failed = [i for i, v in enumerate(verdicts) if v.outcome == "infra_error"]
        if failed:
            # Another worker: the actors are rotated, so that the same job meets a different one.
            self._actors = self._actors[1:] + self._actors[:1]
            for i, verdict in zip(failed, self._pass([jobs[i] for i in failed]), strict=True):
                verdicts[i] = verdict
        return verdicts

    def close(self) -> None:
        """Ends all actors, and with them every room."""
        for actor in self._actors:
            self._kill(actor)
        self._actors = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _pass(self, jobs: Sequence[Job]) -> list[Verdict]:
        if not self._actors:
            raise SandboxError("the sandbox pool is closed")
        verdicts = [Verdict(id=j.id, outcome="infra_error", message="no worker answered") for j in jobs]
        waiting = deque(range(i, min(i + _BATCH, len(jobs))) for i in range(0, len(jobs), _BATCH))
        idle = list(range(len(self._actors)))
        running: dict[Any, tuple[int, range, float]] = {}
        while waiting or running:
            while waiting and idle:
                slot, batch = idle.pop(0), waiting.popleft()
                call = self._actors[slot].run.remote([jobs[i] for i in batch])
                running[call] = slot, batch, time.monotonic() + sum(_longest_s(jobs[i]) for i in batch)
            nearest = min(deadline for _, _, deadline in running.values())
            done, _ = self._ray.wait(list(running), num_returns=1, timeout=max(0.0, nearest - time.monotonic()))
            late = [c for c, (_, _, deadline) in running.items() if deadline <= time.monotonic() and c not in done]
            for call in [*done, *late]:
                slot, batch, _ = running.pop(call)
                for i, verdict in zip(batch, self._collect(call, slot, call in late, batch, jobs), strict=True):
                    verdicts[i] = verdict
                idle.append(slot)
        return verdicts

    def _collect(self, call: Any, slot: int, late: bool, batch: range, jobs: Sequence[Job]) -> list[Verdict]:
        reason = "the worker didn't answer in time"
        if not late:
            try:
                return self._ray.get(call)
            except self._ray.exceptions.RayError as error:
                reason = f"the worker died: {str(error).splitlines()[0]}"
        self._kill(self._actors[slot])
        self._actors[slot] = self._actor_class.remote(self._min_tier)
        failed = Verdict(id="", outcome="infra_error", message=reason[:500])
        return [replace(failed, id=jobs[i].id) for i in batch]

    def _kill(self, actor: Any) -> None:
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.kill(actor)


def _longest_s(job: Job) -> float:
    """Seconds after which a judge has given its verdict for certain, twice over: it tries again once."""
    runs = len(job.tests) if job.kind == "stdio" else 1
    return 2 * (runs * (3 * job.timeout_s + 1) * (1 + STARVATION_FACTOR) + 60)
