"""A Python interpreter in the sandbox, whose variables last for the episode."""

from __future__ import annotations

from posttrain.errors import SandboxError
from posttrain.rewards.environments.base import Environment
from posttrain.sandbox.judging.rounds import HostBusy, ZygoteGone
from posttrain.sandbox.session import Session


class Python(Environment):
    """Runs the model's code in a confined room of its own, put up with the first call.

    `timeout_s` is processor time of the whole episode in seconds, `cell_timeout_s` that of one call; `memory_mb` MiB.
    """

    def __init__(self, timeout_s: float = 20.0, cell_timeout_s: float = 5.0, memory_mb: int = 512) -> None:
        self._limits = (timeout_s, cell_timeout_s, memory_mb)
        self._session: Session | None = None

    def python(self, code: str) -> str:
        """Runs Python code; variables stay for the next call. Returns what was printed and the last line's value.

        Args:
            code: Python code, e.g. sum(range(10))
        """
        try:
            cell = self._opened().run(code)
        except (HostBusy, ZygoteGone) as error:
            raise SandboxError(f"the interpreter's sandbox is gone: {error}") from error
        except BaseException:  # cut off by an alarm: what the cell still says must not pass for the next one's answer
            self.close()
            raise
        if cell.outcome == "infra_error":
            raise SandboxError(cell.error or "the sandbox failed")
        said = "\n".join(part for part in (cell.output.rstrip("\n"), cell.value) if part)
        if cell.outcome == "ok":
            return said or "(no output)"
        return "\n".join(part for part in (said, f"error: {cell.outcome}: {cell.error.strip()}") if part)

    def _opened(self) -> Session:
        if self._session is None:
            seconds, a_cell, memory = self._limits
            self._session = Session(self.sandbox_tier, timeout_s=seconds, cell_timeout_s=a_cell, memory_mb=memory)
        return self._session

    def close(self) -> None:
        """See Environment."""
        if self._session is not None:
            self._session.close()
            self._session = None
