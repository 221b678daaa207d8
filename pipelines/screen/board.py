"""The terminal's view of a whole run: the stages with their states, and where the running one stands."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

MARKS = {
    "done": ("✓", "green"),
    "reused": ("✓", "dim"),
    "running": ("▶", "cyan"),
    "failed": ("✗", "red"),
    "": ("·", "dim"),
}
REST = 8
"""Lines left for what is printed above, and for the running stage itself."""

SHORTEST = 8
"""Columns that a stage's name gets in the narrowest terminal."""


class Board:
    """Redraws itself while it is entered; lines that are printed go above it. On no terminal it does nothing."""

    def __init__(self, console: Console, stages: Iterable[tuple[str, str]]) -> None:
        self._console = console
        self._stages = {name: [kind, "", ""] for name, kind in stages}
        self._running, self._step, self._note, self._share = "", "", "", 0.0
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(self, console=self._console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    @property
    def active(self) -> bool:
        """Whether it is being drawn."""
        return self._live is not None

    def state(self, stage: str, state: str, time: str = "") -> None:
        """Say how a stage stands: running, done, reused or failed."""
        self._stages[stage][1:] = [state, time]
        self._running = stage if state == "running" else ""
        self._step = self._note = ""
        self._share = 0.0

    def progress(self, step: str, share: float, note: str) -> None:
        """Say where the running stage stands."""
        self._step, self._share, self._note = step, share, note

    def __rich__(self) -> Any:
        shown, hidden = self._window()
        table = Table.grid(padding=(0, 1))
        cells = [max(len(self._stages[name][at] or "running") for name in shown) for at in (0, 2)]
        room = max(SHORTEST, self._console.width - len("✓ ") - sum(cells) - 2)
        for most in (None, room, None, None):  # a long name gives way, not what stands behind it
            table.add_column(no_wrap=True, overflow="ellipsis", max_width=most)
        for name in shown:
            kind, state, time = self._stages[name]
            mark, style = MARKS[state]
            bold = "bold" if state == "running" else style
            table.add_row(Text(mark, style), Text(name, bold), Text(kind, "dim"), Text(time or state, "dim"))
        parts: list[Any] = [table]
        if hidden:
            parts.append(Text(f"  and {hidden} more", "dim"))
        if self._step:
            parts.append(_line(self._step))
            bar = ProgressBar(total=1.0, completed=self._share, width=min(60, self._console.width - 4))
            parts.append(Padding.indent(bar, 2))
        if self._note:
            parts.append(_line(self._note))
        return Group(*parts)

    def _window(self) -> tuple[list[str], int]:
        """The stages around the running one that the terminal has room for, and how many it hasn't."""
        names = list(self._stages)
        room = max(3, self._console.height - REST)
        if len(names) <= room:
            return names, 0
        at = names.index(self._running) if self._running else 0
        first = min(max(0, at - room // 2), len(names) - room)
        return names[first : first + room], len(names) - room


def _line(text: str) -> Padding:
    """What has no room on one line goes on on the next: the last number is as good as the first."""
    return Padding.indent(Text(text), 2)
