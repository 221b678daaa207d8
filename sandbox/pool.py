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
from posttrain.sandbox.isolation.zygote_process import PATIENT_REPLY_TIMEOUT_S
from posttrain.sandbox.jobs import Job, Verdict
from posttrain.sandbox.judging.counters import Counters
from posttrain.sandbox.judging.places import AT_WORK, MOST, Places
from posttrain.sandbox.judging.repeats import Repeats
from posttrain.sandbox.judging.rounds import STARVATION_FACTOR
from posttrain.sandbox.languages import COMPILE_S, LanguageError
from posttrain.sandbox.languages import check as check_languages
from posttrain.sandbox.supervisor import ATTEMPTS, Judge
from posttrain.sandbox.tiers import TierReport, require

_BATCH = 4
"""Jobs a call at most: a Ray call costs about a millisecond, a job about ten."""
_OVERLAP = MOST
"""Calls that an actor takes at once; it begins them as `places` allows."""
_START_TIMEOUT_S = 120.0
_POLL_S = 0.05


@dataclass(frozen=True)
class _Batch:
    """Jobs, by index, for one call; `avoid` is the actor where they failed before."""

    jobs: range
    avoid: int | None = None


@dataclass(frozen=True)
class _Call:
    """A batch that runs: on which actor, by index and by handle, and until when."""

    index: int
    actor: Any
    jobs: range
    deadline: float


class LocalJudgePool:
    """Judges on this machine, one a thread. For the command line, tests, and runs without Ray.

    Raises SandboxError if the host allows less than `min_tier`, or one of `preload` or `languages` isn't here.
    """

    def __init__(
        self, workers: int = 1, min_tier: str = "B", *, preload: Sequence[str] = (), languages: Sequence[str] = ()
    ) -> None:
        self.report = require(min_tier)
        try:
            check_languages(languages, self.report.tier)
        except LanguageError as error:
            raise SandboxError(str(error), where="sandbox", fix="leave it out, or install it") from error
        self.counters = Counters()
        self._judges: queue.SimpleQueue[Judge] = queue.SimpleQueue()
        self._all = [Judge(self.report.tier, preload=preload, languages=languages) for _ in range(workers)]
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
    """The body of an actor, on its own node: calls overlap, and each takes a judge for itself."""

    def __init__(self, min_tier: str, preload: Sequence[str], languages: Sequence[str]) -> None:
        _yield_to_others()
        self._report = require(min_tier)
        self._preload, self._languages = tuple(preload), tuple(languages)
        check_languages(self._languages, self._report.tier)
        self._idle: queue.SimpleQueue[Judge] = queue.SimpleQueue()
        self._places = Places()

    def report(self) -> TierReport:
        return self._report

    def run(self, jobs: list[Job]) -> list[Verdict]:
        _yield_to_others()
        with self._places.take(max(job.memory_mb for job in jobs)) as began:
            try:
                judge = self._idle.get_nowait()
            except queue.Empty:  # at most as many as calls that overlap
                judge = Judge(self._report.tier, patient=True, preload=self._preload, languages=self._languages)
            verdicts = []
            try:
                for job in jobs:
                    began()
                    verdicts.append(judge.run(job))
            finally:
                self._idle.put(judge)
            return verdicts


def _yield_to_others() -> None:
    # A model's code must never slow the learner. In Linux this is a matter of each thread, and of what it starts.
    os.setpriority(os.PRIO_PROCESS, 0, 19)


class SandboxPool:
    """Judges in Ray actors, one each. Ray must be initialised. Several threads may share it.

    Each actor has a few small batches at a time, so that programs that sleep don't hold up the others; callers wait
    for one that has room. An actor that dies or doesn't answer is replaced; its jobs, and those that got an
    infra_error, run once more, on another one. Raises SandboxError if a node allows less than `min_tier`.
    """

    def __init__(
        self, workers: int = 1, min_tier: str = "B", *, preload: Sequence[str] = (), languages: Sequence[str] = ()
    ) -> None:
        import ray

        self.counters = Counters()
        self._repeats = Repeats()
        self._ray = ray
        self._settings = min_tier, tuple(preload), tuple(languages)
        self._actor_class = ray.remote(num_cpus=0, max_restarts=0, max_concurrency=_OVERLAP)(_Worker)
        self._actors = [self._actor_class.remote(*self._settings) for _ in range(workers)]
        self._changed = threading.Condition()
        self._free = deque(list(range(workers)) * _OVERLAP)  # an actor stands here once for each call it can take
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
        """One verdict a job, in order. Waits no longer than all jobs' own wall clocks allow.

        Jobs that differ in nothing but their id are run once: groups often hold the same answer several times. And a
        program that ran into its time limit twice isn't run again (see `repeats`).
        """
        numbers = same_jobs(jobs)
        known = {n: verdict for n in set(numbers) if (verdict := self._repeats.known(jobs[n])) is not None}
        new = [n for n in dict.fromkeys(numbers) if n not in known]
        found = dict(zip(new, self._judge([jobs[n] for n in new]), strict=True))
        for n, verdict in found.items():
            self._repeats.note(jobs[n], verdict)
        of_first = known | found
        verdicts = [replace(of_first[n], id=job.id) for n, job in zip(numbers, jobs, strict=True)]
        self.counters.add(verdicts, remembered=sum(n in known for n in numbers))
        return verdicts

    def _judge(self, jobs: Sequence[Job]) -> list[Verdict]:
        verdicts = [Verdict(id=j.id, outcome="infra_error", message="no worker answered") for j in jobs]
        size = max(1, min(_BATCH, len(jobs) // (2 * AT_WORK * max(1, len(self._actors)))))
        used = self._pass(
            jobs, verdicts, [_Batch(range(i, min(i + size, len(jobs)))) for i in range(0, len(jobs), size)]
        )
        failed = [i for i, v in enumerate(verdicts) if v.outcome == "infra_error"]
        if failed:
            self._pass(jobs, verdicts, [_Batch(range(i, i + 1), avoid=used[i]) for i in failed])
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
        """Runs all batches and puts in what came of them; returns which actor each job went to."""
        waiting, running = deque(batches), dict[Any, _Call]()
        used: dict[int, int] = {}
        while waiting or running:
            while waiting and (index := self._take(waiting[0].avoid, wait=not running)) is not None:
                batch, actor = waiting.popleft(), self._actors[index]
                used |= dict.fromkeys(batch.jobs, index)
                ref = actor.run.remote([jobs[i] for i in batch.jobs])
                deadline = time.monotonic() + sum(_longest_s(jobs[i]) for i in batch.jobs)
                running[ref] = _Call(index, actor, batch.jobs, deadline)
            nearest = min(call.deadline for call in running.values()) - time.monotonic()
            pause = min(nearest, _POLL_S) if waiting else nearest  # another thread may give a place back
            done, _ = self._ray.wait(list(running), num_returns=1, timeout=max(0.0, pause))
            late = [ref for ref, call in running.items() if call.deadline <= time.monotonic() and ref not in done]
            for ref in [*done, *late]:
                call = running.pop(ref)
                try:
                    found = self._collect(ref, call, ref in late, jobs)
                finally:
                    self._give(call.index)
                for i, verdict in zip(call.jobs, found, strict=True):
                    verdicts[i] = verdict
        return used

    def _take(self, avoid: int | None, *, wait: bool) -> int | None:
        """The actor with most room, another than `avoid` if there is one; None if all are busy, and `wait` is false."""
        with self._changed:
            while True:
                if not self._actors:
                    raise SandboxError("the sandbox pool is closed")
                fitting = [i for i in self._free if i != avoid or len(self._actors) == 1]
                if fitting:
                    index = max(fitting, key=self._free.count)
                    self._free.remove(index)
                    return index
                if not wait:
                    return None
                self._changed.wait(_POLL_S)  # who holds a place gives it back within its own deadline

    def _give(self, index: int) -> None:
        with self._changed:
            self._free.append(index)
            self._changed.notify()

    def _collect(self, ref: Any, call: _Call, late: bool, jobs: Sequence[Job]) -> list[Verdict]:
        reason = "the worker didn't answer in time"
        if not late:
            try:
                return self._ray.get(ref)
            except self._ray.exceptions.RayError as error:
                reason = f"the worker died: {str(error).splitlines()[0]}"
        with self._changed:
            # Once for all calls that it had; and not if the pool is closed meanwhile.
            if self._actors and self._actors[call.index] is call.actor:
                self._kill(call.actor)
                self._actors[call.index] = self._actor_class.remote(*self._settings)
        failed = Verdict(id="", outcome="infra_error", message=reason[:500])
        return [replace(failed, id=jobs[i].id) for i in call.jobs]

    def _kill(self, actor: Any) -> None:
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.kill(actor)


def same_jobs(jobs: Sequence[Job]) -> list[int]:
    """For each job, the index of the first that asks the same: the same code, tests and limits.

    >>> same_jobs([Job(id="1", code="a", tests=("b",)), Job(id="2", code="a", tests=("b",))])
    [0, 0]
    """
    by_code: dict[str, list[int]] = {}
    numbers = []
    for i, job in enumerate(jobs):
        known = by_code.setdefault(job.code, [])
        # As text: 1 == True, but they are different tests.
        same = (n for n in known if repr(replace(jobs[n], id="")) == repr(replace(job, id="")))
        number = next(same, i)
        numbers.append(number)
        if number == i:
            known.append(i)
    return numbers


def _longest_s(job: Job) -> float:
    """Seconds after which a judge has given its verdict for certain, all its attempts counted. More than one attempt is
    rare, and a wait for a place within the actor takes no longer than one.
    """
    runs = len(job.tests) if job.kind == "stdio" else 1
    walls = runs * (3 * job.timeout_s + 1) + (3 * COMPILE_S + 1 if job.language is not None else 0)
    return ATTEMPTS * (walls * (1 + STARVATION_FACTOR) + 2 * PATIENT_REPLY_TIMEOUT_S)
