"""Keeps report.html fresh while a run goes on, without ever costing it much."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from posttrain.pipelines.records.results import read_results
from posttrain.pipelines.report import write_report

EVERY = 20.0
"""Seconds between two reports inside a stage; more where writing one takes long."""
SHARE = 20
"""Writing reports takes one part in so many of the time, at most."""


class Refresher:
    """Writes the run's report: `now` after each stage, `maybe` whenever something was logged."""

    def __init__(self, run_dir: Path, warn: Callable[[str], None]) -> None:
        self._run_dir, self._warn = run_dir, warn
        self._warned, self._next = False, 0.0

    def maybe(self) -> None:
        """Write it if the last one is old enough."""
        if time.monotonic() >= self._next:
            self.now()

    def now(self) -> None:
        """Write it. A report that can't be written is said once, and stops nothing."""
        began = time.monotonic()
        try:
            write_report(read_results(self._run_dir))
        except Exception as error:  # noqa: BLE001  a drawing is never worth a run
            if not self._warned:
                self._warn(f"the report can't be written: {type(error).__name__}: {error}")
            self._warned = True
        ended = time.monotonic()
        self._next = ended + max(EVERY, SHARE * (ended - began))
