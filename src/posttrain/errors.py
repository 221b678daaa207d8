"""The errors a person meets. Each says what is wrong, where, and what to do.

Two families decide the exit code: `InputError` (2: the input is wrong, nothing was started) and
`RunError` (1: it failed while running).
"""

from __future__ import annotations


class PosttrainError(Exception):
    """Base of all errors raised on purpose."""

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        self.what, self.where, self.fix = what, where, fix
        lines = [f"{where}: {what}" if where else what]
        if fix:
            lines.append(f"  fix: {fix}")
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[object, ...]:  # keyword arguments survive pickling through Ray
        return _rebuild, (type(self), self.what, self.where, self.fix)


def _rebuild(cls: type[PosttrainError], what: str, where: str | None, fix: str | None) -> PosttrainError:
    return cls(what, where=where, fix=fix)


class InputError(PosttrainError):
    """The recipe, the data or the command line is wrong; nothing was started. Exit code 2."""

    exit_code = 2


class RecipeError(InputError):
    """A recipe doesn't say something that can be run."""


class DataError(InputError):
    """A data file is missing, malformed, or lacks a column."""


class RunError(PosttrainError):
    """A stage failed while running. Exit code 1."""


class HandoverError(RunError):
    """An artifact doesn't fit the stage that consumes it (template, special tokens, checksums)."""


class RewardError(RunError):
    """Rewards fail too often to go on; the traceback of the first failure is in the message."""


class SandboxError(RunError):
    """The sandbox can't confine code on this host, or its workers keep dying."""


class Stopped(PosttrainError):
    """SIGTERM or SIGINT stopped the run after it saved its state. Exit code 143."""

    exit_code = 143
