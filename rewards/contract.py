"""What rewards and their callers agree on. No imports but types: every file of this room may read it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from posttrain.sandbox.jobs import Job, Verdict

Needs = Literal["nothing", "worker", "judge", "math"]
"""What a built-in is handed: nothing (our own bounded code, runs in the caller); a process of its own to run in;
a sandbox (`judge=`); a process for symbolic mathematics (`symbolic=`)."""


@dataclass(frozen=True)
class RowError:
    """A row that couldn't be judged, through no fault of the completion: an infra error, never 0."""

    detail: str


class JudgeClient(Protocol):
    """Whatever runs code: `sandbox.pool.SandboxPool`, `LocalJudgePool`, or a stand-in."""

    def judge(self, jobs: Sequence[Job]) -> list[Verdict]:
        """One verdict a job, in order."""
        ...


@runtime_checkable
class CountingJudge(Protocol):
    """A judge that counts what became of its jobs."""

    def metrics(self) -> dict[str, float]:
        """Counts since the last call: see `sandbox.counters`."""
        ...


@dataclass(frozen=True, kw_only=True)
class BuiltinReward:
    """A reward that a recipe can name plainly.

    >>> BuiltinReward(function=exact, columns=("answer",), doc="equals the column `answer`")
    """

    function: Callable[..., Sequence[float | RowError | None]]
    doc: str
    columns: tuple[str, ...] = ()
    """Columns that a row must have."""
    optional: tuple[str, ...] = ()
    """Columns it reads where a row has them. It is passed no others: a column could be called like a parameter."""
    params: tuple[str, ...] = ()
    """Parameters it can't do without."""
    sees: Literal["answer", "completion"] = "answer"
    needs: Needs = "nothing"


def call_arguments(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Rows of columns as columns of rows; None where a row lacks one."""
    names = dict.fromkeys(name for row in rows for name in row if name not in ("prompts", "completions"))
    return {name: [row.get(name) for row in rows] for name in names}
