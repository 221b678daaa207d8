"""What the sandbox is asked, and what it answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from posttrain.sandbox.languages import LANGUAGES

Outcome = Literal["pass", "wrong", "timeout", "memory", "crash", "compile_error", "output_limit", "infra_error"]
OUTCOMES: tuple[Outcome, ...] = (
    "pass", "wrong", "timeout", "memory", "crash", "compile_error", "output_limit", "infra_error",
)  # fmt: skip
"""`infra_error` is the judge's own failure (or a job that can't be judged): never evidence about the code."""

TestKind = Literal["asserts", "stdio", "calls", "methods"]
Result = Literal["pass", "failed", "not_run"]
"""What became of one test."""
MESSAGE_CHARS = 500
MAX_RESULTS = 10_000
"""Tests of one job whose results are told one by one."""


class JobError(ValueError):
    """A job doesn't say what is to be judged."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A program and its tests.

    >>> Job(id="1", code="def add(a, b): return a + b", tests=("assert add(1, 2) == 3",), entry=("add",))
    """

    id: str
    code: str
    tests: tuple[Any, ...]
    """asserts: module texts, run one after the other in one namespace. stdio: (input, expected output) pairs of
    text. calls: (arguments, expected value) pairs of plain data, compared as `matching` says: JSON's keys, tuples,
    floats, {"$set": [...]}; the first entry is called. methods: (names,
    arguments, expected values), three lists of one length a test: the first name is the class (or what makes the
    object, whatever is expected there), the others are methods of that one object."""
    kind: TestKind = "asserts"
    entry: tuple[str, ...] = ()
    """Names of the solution that the tests may use; found in the tests where empty."""
    timeout_s: float = 3.0
    """Seconds of processor time, and of sleep; the wall clock allows 3 times as much and one second more."""
    memory_mb: int = 1024
    """MiB of address space above what an idle room has."""
    stop_on_first: bool = False
    """No test is run after one that failed."""
    language: str | None = None
    """None: Python. Else one of `languages.LANGUAGES`: stdio tests only, in tier A only."""
    float_tolerance: float | None = None
    """Numbers may differ by this much, relative or absolute. None: stdio compares text, and calls and methods as
    `matching` says."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the judge saw.

    >>> Verdict(id="1", outcome="pass", passed=1, total=1, seconds=0.008)
    """

    id: str
    outcome: Outcome
    passed: int = 0
    total: int = 0
    seconds: float = 0.0
    """Wall clock, from the request to the last process reaped."""
    message: str = ""
    """A short hint for a person. Written by the code under test in part: never parse it."""
    results: tuple[Result, ...] = ()
    """One a test, in order; empty where no test could be reached, or there are more than MAX_RESULTS."""
    forged: bool = False
    """The solution spoke out of turn on the channel to the tests: answers that nothing asked for, broken frames."""
    denied: int = 0
    """How often it tried what is never allowed (fork, connect, write a file ...), by a count that it can fake."""


def _case(test: Any) -> tuple[TestKind, tuple[Any, ...]] | None:
    if isinstance(test, Mapping):
        if "methods" in test and "args" in test and "expected" in test:
            lists = test["methods"], test["args"], test["expected"]
            same = all(isinstance(part, list | tuple) and len(part) == len(lists[0]) for part in lists)
            named = same and len(lists[0]) > 1 and all(isinstance(name, str) for name in lists[0])
            return ("methods", lists) if named else None
        if "input" in test and "output" in test:
            return "stdio", (test["input"], test["output"])
        if "args" in test and "expected" in test:
            return "calls", (test["args"], test["expected"])
    elif isinstance(test, list | tuple) and len(test) == 2:
        return "calls", (test[0], test[1])
    return None


def parse_tests(tests: Any) -> tuple[TestKind, tuple[Any, ...]]:
    """The kind and the cases of a `tests` column.

    Text or a list of texts are asserts; {"input", "output"} are stdin and stdout; {"args", "expected"} or
    [args, expected] are calls; {"methods", "args", "expected"}, three lists, are calls of one object; a mapping of
    two lists {"inputs", "outputs"} is zipped to stdin and stdout. Text that is JSON of one of these is read as such.
    Raises JobError.
    """
    if isinstance(tests, str):
        if tests.lstrip()[:1] not in ("[", "{"):
            return "asserts", (tests,)
        try:
            tests = json.loads(tests)
        except ValueError:
            return "asserts", (tests,)
    if isinstance(tests, Mapping) and "inputs" in tests and "outputs" in tests:
        if len(tests["inputs"]) != len(tests["outputs"]):
            raise JobError("tests: as many inputs as outputs are needed")
        tests = [{"input": i, "output": o} for i, o in zip(tests["inputs"], tests["outputs"], strict=True)]
    if isinstance(tests, Mapping):
        tests = [tests]
    if not isinstance(tests, Sequence) or not tests:
        raise JobError("no tests: give text, a list of asserts, or a list of pairs")
    if all(isinstance(t, str) for t in tests):
        return "asserts", tuple(tests)
    cases = [_case(t) for t in tests]
    kinds = {c[0] for c in cases if c}
    if None in cases or len(kinds) != 1:
        raise JobError(
            'tests must all be asserts, all {"input", "output"}, all {"args", "expected"}, or all '
            '{"methods", "args", "expected"} with three lists of one length'
        )
    kind, found = kinds.pop(), tuple(c[1] for c in cases if c)
    if kind == "stdio" and not all(isinstance(text, str) for pair in found for text in pair):
        raise JobError("stdin and stdout tests are pairs of text")
    return kind, found


def check_language(name: Any, kind: TestKind) -> str | None:
    """The `language` of a job with tests of this kind; None for Python. Raises JobError."""
    if name is None or name == "python":
        return None
    if name not in LANGUAGES:
        raise JobError(f"language {name!r}: python, {', '.join(LANGUAGES)} are known")
    if kind != "stdio":
        raise JobError(f"programs in {name} are tested by standard input and output, not by {kind}")
    return str(name)


def job_from_json(row: Mapping[str, Any]) -> Job:
    """A job from one JSON line: id, code, tests; as you like entry, timeout_s, memory_mb, and what Job calls
    stop_on_first, float_tolerance and language. Raises JobError.
    """
    if not isinstance(row, Mapping) or not isinstance(row.get("code"), str):
        raise JobError("a job is an object with the text `code`")
    kind, tests = parse_tests(row.get("tests"))
    entry = row.get("entry") or ()
    names = (entry,) if isinstance(entry, str) else tuple(entry)
    tolerance = row.get("float_tolerance")
    language = check_language(row.get("language"), kind)
    if not all(isinstance(name, str) for name in names):
        raise JobError("`entry` is a name, or a list of names")
    try:
        timeout_s, memory_mb = float(row.get("timeout_s") or 3.0), int(row.get("memory_mb") or 1024)
    except OverflowError:
        raise JobError("timeout_s and memory_mb must be finite") from None
    if not 0 < timeout_s <= 3600 or not 0 < memory_mb <= 1 << 20:
        raise JobError("timeout_s must be in (0, 3600] and memory_mb in (0, 1048576]")
    if tolerance is not None and not 0 <= float(tolerance) < 1:
        raise JobError("float_tolerance must be in [0, 1)")
    return Job(
        id=str(row.get("id", "")),
        code=row["code"],
        tests=tests,
        kind=kind,
        entry=names,
        timeout_s=timeout_s,
        memory_mb=memory_mb,
        stop_on_first=bool(row.get("stop_on_first", False)),
        language=language,
        float_tolerance=None if tolerance is None else float(tolerance),
    )
