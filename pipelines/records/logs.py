"""The growing files of a run: a stage's metrics.jsonl and live.json, the run's events.jsonl."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from posttrain.folders import read_json, write_text
from posttrain.pipelines.records.ledger import LIVE
from posttrain.pipelines.records.loggers import SafeLoggers


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
