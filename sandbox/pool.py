"""Many judges: threads here (`LocalJudgePool`), or Ray actors on any node (`SandboxPool`).

The only file of this room that imports Ray, and only once a `SandboxPool` is made.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

from posttrain.errors import SandboxError
from posttrain.sandbox.counters import Counters
from posttrain.sandbox.jobs import Job, Verdict
from posttrain.sandbox.rounds import STARVATION_FACTOR
from posttrain.sandbox.supervisor import ATTEMPTS, PATIENT_REPLY_TIMEOUT_S, Judge
from posttrain.sandbox.tiers import TierReport, require

_BATCH = 8
"""Jobs a call: a Ray call costs about a millisecond, a job about ten."""
_START_TIMEOUT_S = 120.0
_POLL_S = 0.05


@dataclass(frozen=True)
class _Batch:
    """Jobs, by index, for one call; `avoid` is the slot where they failed before."""

    jobs: range
    avoid: int | None = None


class LocalJudgePool:
    """Judges on this machine, one a thread. For the command line, tests, and runs without Ray.

    Raises SandboxError if the host allows less than `min_tier`.
    """

    def __init__(self, workers: int = 1, min_tier: str = "B") -> None:
        self.report = require(min_tier)
        self.counters = Counters()
        self._judges: queue.SimpleQueue[Judge] = queue.SimpleQueue()
        self._all = [Judge(self.report.tier) for _ in range(workers)]
        for judge in self._all:
            self._judges.put(judge)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="judge")

    def judge(self, jobs: Sequence[Job]) -> list[Verdict]:
        """One verdict a job, in order; bounded by the jobs' own wall clocks."""
        verdicts = list(self._threads.map(self._run, jobs))
        self.counters.add(verdicts)
        return verdicts

    def metrics(self) -> dict[str, float]:
        """See Counters.drain."""
        return self.counters.drain()

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
        self._judge = Judge(self._report.tier, patient=True)

    def report(self) -> TierReport:
        return self._report

    def run(self, jobs: list[Job]) -> list[Verdict]:
        return [self._judge.run(job) for job in jobs]


class SandboxPool:
    """Judges in Ray actors, one each. Ray must be initialised. Several threads may share it.

    Each actor has one small batch at a time; callers wait for one that is idle. An actor that dies or doesn't answer
    is replaced; its jobs, and those that got an infra_error, run once more on another one. Raises SandboxError if a
    node allows less than `min_tier`.
    """

    def __init__(self, workers: int = 1, min_tier: str = "B") -> None:
        import ray

        self.counters = Counters()
        self._ray = ray
        self._min_tier = min_tier
        self._actor_class = ray.remote(num_cpus=0, max_restarts=0)(_Worker)
        self._actors = [self._actor_class.remote(min_tier) for _ in range(workers)]
        self._changed = threading.Condition()
        self._idle = deque(range(workers))
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
        """One verdict a job, in order. Waits no longer than all jobs' own wall clocks allow."""
        verdicts = [Verdict(id=j.id, outcome="infra_error", message="no worker answered") for j in jobs]
        size = max(1, min(_BATCH, -(-len(jobs) // (2 * max(1, len(self._actors))))))
        used = self._pass(
            jobs, verdicts, [_Batch(range(i, min(i + size, len(jobs)))) for i in range(0, len(jobs), size)]
        )
        failed = [i for i, v in enumerate(verdicts) if v.outcome == "infra_error"]
        if failed:
            self._pass(jobs, verdicts, [_Batch(range(i, i + 1), avoid=used[i]) for i in failed])
        self.counters.add(verdicts)
        return verdicts

    def metrics(self) -> dict[str, float]:
        """See Counters.drain."""
        return self.counters.drain()

    def close(self) -> None:
        """Ends all actors, and with them every room."""
        with self._changed:
            actors, self._actors = self._actors, []
            self._changed.notify_all()
        for actor in actors:
            self._kill(actor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _pass(self, jobs: Sequence[Job], verdicts: list[Verdict], batches: list[_Batch]) -> dict[int, int]:
        """Runs all batches and puts in what came of them; returns the slot that each job ran in."""
        waiting, running = deque(batches), dict[Any, tuple[int, _Batch, float]]()
        used: dict[int, int] = {}
        while waiting or running:
            while waiting and (slot := self._take(waiting[0].avoid, wait=not running)) is not None:
                batch = waiting.popleft()
                used |= dict.fromkeys(batch.jobs, slot)
                call = self._actors[slot].run.remote([jobs[i] for i in batch.jobs])
                running[call] = slot, batch, time.monotonic() + sum(_longest_s(jobs[i]) for i in batch.jobs)
            nearest = min(deadline for _, _, deadline in running.values()) - time.monotonic()
            pause = min(nearest, _POLL_S) if waiting else nearest  # another thread may leave a worker idle
            done, _ = self._ray.wait(list(running), num_returns=1, timeout=max(0.0, pause))
            late = [c for c, (_, _, deadline) in running.items() if deadline <= time.monotonic() and c not in done]
            for call in [*done, *late]:
                slot, batch, _ = running.pop(call)
                try:
                    found = self._collect(call, slot, call in late, batch.jobs, jobs)
                finally:
                    self._give(slot)
                for i, verdict in zip(batch.jobs, found, strict=True):
                    verdicts[i] = verdict
        return used

    def _take(self, avoid: int | None, *, wait: bool) -> int | None:
        """An idle slot, another than `avoid` if there is one; None if all are busy, and `wait` is false."""
        with self._changed:
            while True:
                if not self._actors:
                    raise SandboxError("the sandbox pool is closed")
                fitting = [s for s in self._idle if s != avoid or len(self._actors) == 1]
                if fitting:
                    self._idle.remove(fitting[0])
                    return fitting[0]
                if not wait:
                    return None
                self._changed.wait(_POLL_S)  # who holds a slot gives it back within its own deadline

    def _give(self, slot: int) -> None:
        with self._changed:
            self._idle.append(slot)
            self._changed.notify()

    def _collect(self, call: Any, slot: int, late: bool, batch: range, jobs: Sequence[Job]) -> list[Verdict]:
        reason = "the worker didn't answer in time"
        if not late:
            try:
                return self._ray.get(call)
            except self._ray.exceptions.RayError as error:
                reason = f"the worker died: {str(error).splitlines()[0]}"
        with self._changed:
            if self._actors:  # else it is closed meanwhile
                self._kill(self._actors[slot])
                self._actors[slot] = self._actor_class.remote(self._min_tier)
        failed = Verdict(id="", outcome="infra_error", message=reason[:500])
        return [replace(failed, id=jobs[i].id) for i in batch]

    def _kill(self, actor: Any) -> None:
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.kill(actor)


def _longest_s(job: Job) -> float:
    """Seconds after which a judge has given its verdict for certain, all its attempts counted."""
    runs = len(job.tests) if job.kind == "stdio" else 1
    return ATTEMPTS * (runs * (3 * job.timeout_s + 1) * (1 + STARVATION_FACTOR) + 2 * PATIENT_REPLY_TIMEOUT_S)
