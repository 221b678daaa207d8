"""Rewards that run a completion's code in the sandbox."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

from posttrain.rewards.contract import JudgeClient, RowError
from posttrain.sandbox.jobs import Job, JobError, Verdict, parse_tests

_FENCE = re.compile(r"^[ \t]*```[ \t]*([\w+-]*)[^\n]*$", re.MULTILINE)
_PYTHON = ("python", "py", "python3")


def last_block(text: str) -> str | None:
    """The last closed fenced block that is marked as Python, else the last unmarked one; None without either."""
    blocks: list[tuple[str, str]] = []
    start: tuple[str, int] | None = None
    for mark in _FENCE.finditer(text):
        if start is None:
            start = mark.group(1).lower(), mark.end() + 1
        elif not mark.group(1):
            blocks.append((start[0], text[start[1] : mark.start()]))
            start = None
    for languages in (_PYTHON, ("",)):
        matching = [code for language, code in blocks if language in languages]
        if matching:
            return matching[-1]
    return None


def code(
    prompts: Sequence[Any],
    completions: Sequence[str],
    tests: Sequence[Any],
    *,
    judge: JudgeClient,
    entry: Sequence[Any] | None = None,
    credit: Literal["all", "fraction"] = "all",
    timeout_s: float = 3.0,
    memory_mb: int = 1024,
    **columns: Any,
) -> list[float | RowError | None]:
    """1.0 where the last fenced Python block passes every test of the column `tests` in the sandbox.

    `tests` are asserts (text or a list), stdin and stdout pairs, or argument and result pairs (see
    `sandbox.jobs.parse_tests`); the column `entry` names what they call. `credit: fraction` pays the share of
    tests passed. No code is 0.0, no tests are not applicable. `timeout_s` is processor time, `memory_mb` MiB.
    """
    entries = entry or [None] * len(completions)
    results: list[float | RowError | None] = [0.0] * len(completions)
    jobs: dict[int, Job] = {}
    for i, (text, cases, names) in enumerate(zip(completions, tests, entries, strict=True)):
        block = last_block(text)
        if cases is None:
            results[i] = None
        elif block is not None:
            job = _job(str(i), block, cases, names, timeout_s, memory_mb)
            if isinstance(job, RowError):
                results[i] = job
            else:
                jobs[i] = job
    for i, verdict in zip(jobs, judge.judge(list(jobs.values())) if jobs else [], strict=True):
        results[i] = _value(verdict, credit)
    return results


def _job(name: str, block: str, cases: Any, names: Any, timeout_s: float, memory_mb: int) -> Job | RowError:
    try:
        kind, tests = parse_tests(cases)
    except JobError as error:
        return RowError(f"column `tests`: {error}")
    entry = (names,) if isinstance(names, str) else tuple(names or ())
    return Job(id=name, code=block, tests=tests, kind=kind, entry=entry, timeout_s=timeout_s, memory_mb=memory_mb)


def _value(verdict: Verdict, credit: str) -> float | RowError:
    if verdict.outcome == "infra_error":
        return RowError(f"sandbox: {verdict.message}")
    if credit == "fraction" and verdict.total:
        return verdict.passed / verdict.total
    return float(verdict.outcome == "pass")
