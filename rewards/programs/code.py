"""Rewards that run a completion's code in the sandbox."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from posttrain.rewards.contract import JudgeClient, RowError
from posttrain.rewards.programs.code_blocks import fences, last_block
from posttrain.sandbox.jobs import Job, JobError, TestKind, Verdict, check_language, parse_tests

Credit = Literal["all", "fraction"]


def code(
    prompts: Sequence[Any],
    completions: Sequence[str],
    tests: Sequence[Any],
    *,
    judge: JudgeClient,
    entry: Sequence[Any] | None = None,
    hidden_tests: Sequence[Any] | None = None,
    language: Sequence[Any] | str | None = None,
    credit: Credit = "all",
    timeout_s: float = 3.0,
    memory_mb: int = 1024,
    float_tolerance: float | None = None,
    **columns: Any,
) -> list[float | RowError | None]:
    """1.0 where the last fenced Python block passes every test of the column `tests` in the sandbox.

    `tests` are asserts (text or a list), stdin and stdout pairs, argument and result pairs, or calls of an object's
    methods (see `sandbox.jobs.parse_tests`); the column `entry` names what they call. `hidden_tests`, of the same
    kind, count like them: for tests that the prompt doesn't show. `credit: fraction` pays the share of tests passed.
    No code is 0.0, no tests are not applicable. `language`, if not python, goes with whole programs alone.
    `timeout_s` is processor time, `memory_mb` MiB; `float_tolerance`, for numbers in standard output and in results,
    is relative or absolute.
    """
    none = [None] * len(completions)
    results: list[float | RowError | None] = [0.0] * len(completions)
    jobs: dict[int, Job] = {}
    spoken_of = [language] * len(completions) if isinstance(language, str) else language or none
    rows = zip(completions, tests, entry or none, hidden_tests or none, spoken_of, strict=True)
    for i, (text, shown, names, hidden, spoken) in enumerate(rows):
        try:
            found = _tests(shown, hidden)
            written_in = check_language(spoken, found[0] if found else "stdio")
        except JobError as error:
            results[i] = RowError(f"column `tests`: {error}")
            continue
        block = last_block(text, fences(written_in))
        if found is None:
            results[i] = None
        elif block is not None:
            jobs[i] = Job(
                id=str(i),
                code=block,
                language=written_in,
                kind=found[0],
                tests=found[1],
                entry=(names,) if isinstance(names, str) else tuple(names or ()),
                timeout_s=timeout_s,
                memory_mb=memory_mb,
                stop_on_first=credit == "all",
                float_tolerance=float_tolerance,
            )
    for i, verdict in zip(jobs, judge.judge(list(jobs.values())) if jobs else [], strict=True):
        results[i] = _value(verdict, credit)
    return results


def code_stdio(
    prompts: Sequence[Any],
    completions: Sequence[str],
    tests: Sequence[Any],
    *,
    judge: JudgeClient,
    hidden_tests: Sequence[Any] | None = None,
    language: Sequence[Any] | str | None = None,
    credit: Credit = "all",
    timeout_s: float = 3.0,
    memory_mb: int = 1024,
    float_tolerance: float | None = None,
    **columns: Any,
) -> list[float | RowError | None]:
    """`code` for whole programs: each test is an input and the output that is expected, compared as a whole.

    White space at line ends doesn't count. A row whose tests are of another kind can't be judged. `language`, a
    parameter or a column, is python or one of `cluster.sandbox.languages`; the last block of it is the program.
    """
    checked = [_stdio(cases) for cases in tests]
    usable = [None if isinstance(cases, RowError) else cases for cases in checked]
    results = code(
        prompts,
        completions,
        usable,
        judge=judge,
        hidden_tests=hidden_tests,
        language=language,
        credit=credit,
        timeout_s=timeout_s,
        memory_mb=memory_mb,
        float_tolerance=float_tolerance,
    )
    return [bad if isinstance(bad, RowError) else value for bad, value in zip(checked, results, strict=True)]


def _stdio(cases: Any) -> Any:
    try:
        kind = parse_tests(cases)[0] if cases is not None else "stdio"
    except JobError as error:
        return RowError(f"column `tests`: {error}")
    return cases if kind == "stdio" else RowError('column `tests`: {"input", "output"} pairs are needed here')


def _tests(shown: Any, hidden: Any) -> tuple[TestKind, tuple[Any, ...]] | None:
    """All tests of a row; None without any. Raises JobError."""
    found = [parse_tests(cases) for cases in (shown, hidden) if cases is not None]
    if len({kind for kind, _ in found}) > 1:
        raise JobError(f"they are {found[0][0]}, and `hidden_tests` are {found[1][0]}")
    return (found[0][0], tuple(case for _, cases in found for case in cases)) if found else None


def _value(verdict: Verdict, credit: Credit) -> float | RowError:
    if verdict.outcome == "infra_error":
        return RowError(f"sandbox: {verdict.message}")
    if credit == "fraction" and verdict.total:
        return verdict.passed / verdict.total
    return float(verdict.outcome == "pass")
