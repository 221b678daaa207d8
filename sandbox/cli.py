"""`posttrain sandbox judge`: JSON lines in, JSON lines out."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Sequence
from typing import TextIO

from posttrain.errors import InputError, SandboxError
from posttrain.sandbox.isolation import preloads
from posttrain.sandbox.jobs import MESSAGE_CHARS, JobError, Verdict, job_from_json
from posttrain.sandbox.languages import LANGUAGES, LanguageError
from posttrain.sandbox.languages import check as check_languages
from posttrain.sandbox.supervisor import Judge
from posttrain.sandbox.tiers import require


def check_names(preload: Sequence[str], languages: Sequence[str]) -> None:
    """Raises InputError for what no host has; whether this one has it turns out later, as a SandboxError."""
    for option, names, known in (("--preload", preload, preloads.ALLOWED), ("--language", languages, LANGUAGES)):
        for name in names:
            if name not in known:
                raise InputError(f"{name!r} is none of those known", where=option, fix=f"use {', '.join(known)}")


def judge_lines(
    stdin: TextIO,
    stdout: TextIO,
    min_tier: str = "B",
    *,
    preload: Sequence[str] = (),
    languages: Sequence[str] = (),
) -> int:
    """Judges one job a line of `stdin` and writes one verdict a line, in order and flushed; returns the exit code.

    A line that is not a job gets a separate infra_error. A job with `"results": true` also gets `results`: of each
    test, pass, failed or not_run. Raises InputError for unknown names, SandboxError if the host allows less
    than `min_tier`, or one of `preload` or `languages` isn't here.
    """
    check_names(preload, languages)
    report = require(min_tier)
    try:
        check_languages(languages, report.tier)
    except LanguageError as error:
        raise SandboxError(str(error), where="sandbox", fix="leave it out of the languages, or install it") from error
    if report.tier == "C":
        warnings.warn(f"sandbox tier C: no files can be opened, few modules import. {report.reason}", stacklevel=2)
    if isinstance(stdin, io.TextIOWrapper):
        stdin.reconfigure(encoding="utf-8", errors="replace")  # a broken byte costs its own line, not the others
    with Judge(report.tier, preload=preload, languages=languages) as judge:
        for line in stdin:
            if line.strip():
                stdout.write(json.dumps(_answer(judge, line)) + "\n")
                stdout.flush()
    return 0


def _answer(judge: Judge, line: str) -> dict[str, object]:
    row: object = None
    try:
        row = json.loads(line)
        verdict = judge.run(job_from_json(row))  # type: ignore[arg-type]
    except (JobError, ValueError, TypeError, RecursionError) as error:
        verdict = Verdict(id="", outcome="infra_error", message=f"not a job: {error}"[:MESSAGE_CHARS])
    answer = {
        "id": row.get("id") if isinstance(row, dict) else None,
        "outcome": verdict.outcome,
        "passed": verdict.passed,
        "total": verdict.total,
        "seconds": verdict.seconds,
        "message": verdict.message,
    }
    return answer | {"results": verdict.results} if isinstance(row, dict) and row.get("results") else answer
