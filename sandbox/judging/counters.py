"""Counts verdicts: what became of the code, and how much of it tried to cheat."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence

from posttrain.sandbox.jobs import OUTCOMES, Verdict

ALARM = 0.01
"""Share of infra errors in a step above which the sandbox itself needs a look."""


class Counters:
    """Sums over verdicts since the last `drain`; several threads may add.

    >>> counters = Counters()
    >>> counters.add([Verdict(id="1", outcome="pass", seconds=0.25), Verdict(id="2", outcome="wrong", denied=3)])
    >>> {k: v for k, v in counters.drain().items() if v}
    {'jobs': 2.0, 'seconds': 0.125, 'pass': 0.5, 'wrong': 0.5, 'denied': 0.5}
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._verdicts: list[tuple[str, float, bool, bool]] = []
        self._remembered = 0

    def add(self, verdicts: Sequence[Verdict], *, remembered: int = 0) -> None:
        """Takes note of these verdicts, of which so many are of earlier runs."""
        with self._lock:
            self._remembered += remembered
            self._verdicts += [(v.outcome, v.seconds, v.denied > 0, v.forged) for v in verdicts]

    def drain(self) -> dict[str, float]:
        """Since the last call: `jobs`; `seconds`, the mean wall clock of one; the share of each outcome; `denied`
        and `forged`, the shares that tried what is never allowed, and that spoke out of turn; `remembered`, the share
        whose verdict is that of earlier runs (see `repeats`). Empty without jobs.

        Warns where more than ALARM were infra errors.
        """
        with self._lock:
            found, self._verdicts = self._verdicts, []
            remembered, self._remembered = self._remembered, 0
        if not found:
            return {}
        jobs = len(found)
        metrics = {"jobs": float(jobs), "seconds": sum(v[1] for v in found) / jobs}
        metrics |= {outcome: sum(v[0] == outcome for v in found) / jobs for outcome in OUTCOMES}
        metrics |= {"denied": sum(v[2] for v in found) / jobs, "forged": sum(v[3] for v in found) / jobs}
        metrics["remembered"] = remembered / jobs
        if metrics["infra_error"] > ALARM:
            warnings.warn(
                f"the sandbox failed on {metrics['infra_error']:.1%} of {jobs} jobs (see `posttrain doctor`)",
                stacklevel=2,
            )
        return metrics
