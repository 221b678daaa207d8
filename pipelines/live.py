"""What a person sees while a run goes on: bars with rate and time left on a terminal, plain lines elsewhere.

Also writes the two growing files: a stage's metrics.jsonl and the run's events.jsonl.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from posttrain.folders import write_text
from posttrain.pipelines.board import Board
from posttrain.pipelines.ledger import LIVE, read_json
from posttrain.pipelines.loggers import SafeLoggers
from posttrain.pipelines.terminal import print_line

MAIN_METRICS = (
    "loss",
    "reward",
    "accuracy",
    "pass_rate",
    "kl",
    "entropy",
    "length",
    "tokens_per_second",
)
"""Metrics worth a place on the line, in this order."""

_LINES_A_STAGE = 10


class MetricFile:
    """metrics.jsonl: one line a step, flushed as it is written, so that a crash loses none."""

    def __init__(
        self, path: Path, show: Callable[[Mapping[str, float]], None], loggers: SafeLoggers | None = None
    ) -> None:
        self.path, self._show, self._loggers = path, show, loggers

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one line. A value that isn't finite becomes null, which every JSON reader takes."""
        plain = {name: float(value) for name, value in metrics.items()}
        line = {"step": step, **{k: v if math.isfinite(v) else None for k, v in plain.items()}}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self._loggers is not None:
            self._loggers.log(step, plain)
        self._show(plain)

    def cut(self, step: int) -> None:
        """Drop the lines of steps after `step`, and a last line that a crash tore."""
        kept = [line for line in read_metrics(self.path) if line["step"] <= step]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))

    def close(self) -> None:
        if self._loggers is not None:
            self._loggers.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a metrics.jsonl; none if there is no such file."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_bytes().splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue  # torn by a crash, or damaged
        if isinstance(line, dict) and isinstance(line.get("step"), int | float):
            lines.append(line)
    return lines


def read_live(folder: Path) -> dict[str, Any]:
    """Where a running stage stands: {done, total, unit, rate, left, note, seconds}; empty if nobody says all of it."""
    found = read_json(folder / LIVE)
    known = all(isinstance(found.get(name), int | float) for name in ("done", "total", "seconds"))
    known &= all(isinstance(found.get(name), str) for name in ("unit", "rate", "note"))
    return found if known and isinstance(found.get("left", ""), int | float | None) else {}


class EventLog:
    """events.jsonl: what happened to the run, when."""

    def __init__(self, path: Path, mask: Callable[[Any], Any]) -> None:
        self.path, self._mask = path, mask

    def write(self, event: str, **fields: Any) -> None:
        line = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "event": event, **self._mask(fields)}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")


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


def main_metrics(metrics: Mapping[str, Any]) -> str:
    """The few metrics that fit on a line: `loss 0.412  reward 0.73`."""
    numbers = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
    names = [name for name in MAIN_METRICS if name in numbers] or list(numbers)
    return "  ".join(f"{name} {numbers[name]:.4g}" for name in names[:4])


def tokens_per_second(metrics: Mapping[str, Any]) -> float | None:
    """Tokens that were generated, or else trained on, a second of the step's phases; None if it isn't known."""
    if metrics.get("tokens_per_second"):
        return None  # it stands among the metrics
    seconds = sum(value for name, value in metrics.items() if name.startswith("seconds_") and value is not None)
    tokens = metrics.get("generated_tokens") or metrics.get("tokens")
    return tokens / seconds if tokens and seconds > 0 else None


def duration(seconds: float) -> str:
    """Seconds for people: `48 s`, `3 min 12 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def count_of(number: int | None) -> str:
    """A count for people: 950, 12.3k, 4.56M; nothing if it isn't known.

    >>> count_of(12_345)
    '12.3k'
    """
    if number is None:
        return ""
    for size, letter in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return str(number)
