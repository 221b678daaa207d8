"""What a person sees while a run goes on: bars with rate and time left on a terminal, plain lines elsewhere.

Also writes the two growing files: a stage's metrics.jsonl and the run's events.jsonl.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from posttrain.pipelines.records.ledger import LIVE
from posttrain.pipelines.screen.board import Board
from posttrain.pipelines.screen.numbers import duration, main_metrics, tokens_per_second
from posttrain.pipelines.screen.terminal import print_line

_LINES_A_STAGE = 10


class StageView:
    """The progress of one stage: the `Progress` that a stage is given, fed by its metrics too."""

    def __init__(
        self,
        console: Console,
        title: str,
        mask: Callable[[str], str],
        *,
        folder: Path | None = None,
        board: Board | None = None,
        spent: float = 0.0,
    ) -> None:
        self._console, self._title, self._mask = console, title, mask
        self._folder, self._board = folder, board if board is not None and board.active else None
        self._total, self._done, self._unit, self._note = 0, 0, "step", ""
        self._spent = spent
        self._began = self._began_bar = time.monotonic()
        self._shown, self._first, self._written = 0, 0, 0.0
        self._bar: Progress | None = None
        self._task: Any = None

    def __enter__(self) -> Self:
        self._forget()  # where a killed attempt stood
        self.say(f"{self._title}: start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_bar()
        self._forget()

    def _forget(self) -> None:
        if self._folder is not None:
            (self._folder / LIVE).unlink(missing_ok=True)

    @property
    def seconds(self) -> float:
        """Of this attempt and of those that it goes on from."""
        return self._spent + time.monotonic() - self._began

    def say(self, text: str) -> None:
        """Print one line, above the bar if there is one."""
        print_line(self._console, self._mask(text))

    def start(self, total: int, done: int = 0, unit: str = "step") -> None:
        """Begin a bar of `total` units, `done` of them behind us."""
        self._end_bar()
        self._total, self._done, self._unit, self._first = total, done, unit, done
        self._shown = done * _LINES_A_STAGE // total if total else 0
        self._began_bar = time.monotonic()
        self._tell(now=True)
        if self._console.is_terminal and self._board is None:
            self._bar = Progress(
                TextColumn("  {task.fields[unit]}"),
                BarColumn(bar_width=30),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=self._console,
                transient=True,
            )
            self._task = self._bar.add_task("", total=total, completed=done, unit=unit, rate="", note="")
            self._bar.start()

    def advance(self, n: int = 1, note: str = "") -> None:
        """Move on by `n` units."""
        self._done += n
        self._note = note or self._note
        rate = self._rate()
        self._tell(now=self._done >= self._total)
        if self._board is not None:
            return
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, rate=rate, note=self._note)
            return
        tenth = self._done * _LINES_A_STAGE // self._total if self._total else 0
        if tenth > self._shown:
            self._shown = tenth
            left = f", {self._left()} left" if self._done < self._total else ""
            note = f"  {self._note}" if self._note else ""
            self.say(f"{self._title}: {self._unit} {self._done}/{self._total} ({rate}{left}){note}")

    def show(self, metrics: Mapping[str, float]) -> None:
        """Take the latest metrics as the note of the next line."""
        speed = tokens_per_second(metrics)
        self._note = main_metrics(metrics) + (f"  {speed:.0f} tokens/s" if speed is not None else "")
        self._tell()
        if self._bar is not None:
            self._bar.update(self._task, note=self._note)

    def _rate(self) -> str:
        seconds = max(time.monotonic() - self._began_bar, 1e-9)
        rate = (self._done - self._first) / seconds
        if 0 < rate < 1:
            return f"{1 / rate:.3g} s/{self._unit}"
        return f"{rate:.0f} {self._unit}/s" if rate >= 100 else f"{rate:.3g} {self._unit}/s"

    def _left(self) -> str:
        return duration(self._seconds_left() or 0.0)

    def _seconds_left(self) -> float | None:
        """None before the first unit is done."""
        made = self._done - self._first
        return (self._total - self._done) * (time.monotonic() - self._began_bar) / made if made else None

    def _tell(self, *, now: bool = False) -> None:
        """Tell the board, and at most once a second live.json, which another shell reads."""
        left = self._seconds_left()
        rate = self._rate() if self._done > self._first else ""
        if self._board is not None:
            parts = [f"{self._unit} {self._done}/{self._total}", rate, f"{duration(left)} left" if left else ""]
            share = self._done / self._total if self._total else 0.0
            self._board.progress("  ".join(part for part in parts if part), share, self._mask(self._note))
        if self._folder is None or not (now or time.monotonic() - self._written > 1):
            return
        self._written = time.monotonic()
        told = {"done": self._done, "total": self._total, "unit": self._unit, "rate": rate, "left": left}
        text = json.dumps({**told, "seconds": self.seconds, "note": self._mask(self._note)})
        temporary = self._folder / f".{LIVE}"
        temporary.write_text(text, "utf-8")
        os.replace(temporary, self._folder / LIVE)

    def _end_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
