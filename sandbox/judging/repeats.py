"""Programs that ran into their time limit, twice: they aren't given that time again.

A policy that has found an attack writes it again and again, and each endless loop costs its whole limit. Twice, since a
program near its limit may miss it once for the load of the host: what is remembered has failed in two runs of its own.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass, replace

from posttrain.sandbox.jobs import Job, Verdict

STRIKES = 2
MOST = 4096
"""Programs that are remembered; the one not met for longest is forgotten first."""


@dataclass
class _Known:
    strikes: int
    verdict: Verdict


class Repeats:
    """Several threads may share it.

    >>> repeats, job = Repeats(), Job(id="1", code="while True: pass", tests=("assert f()",))
    >>> for _ in range(2):
    ...     repeats.note(job, Verdict(id="1", outcome="timeout"))
    >>> repeats.known(replace(job, id="2")).outcome, repeats.known(replace(job, timeout_s=9))
    ('timeout', None)
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[bytes, _Known] = OrderedDict()

    def known(self, job: Job) -> Verdict | None:
        """The verdict on this very program, tests and limits, if it need not be run again."""
        with self._lock:
            if not self._known:
                return None
            key = _key(job)
            found = self._known.get(key)
            if found is None or found.strikes < STRIKES:
                return None
            self._known.move_to_end(key)
            return replace(found.verdict, id=job.id, seconds=0.0)

    def note(self, job: Job, verdict: Verdict) -> None:
        """Takes note of what a run gave."""
        with self._lock:
            if verdict.outcome != "timeout":
                if self._known:
                    self._known.pop(_key(job), None)
                return
            key = _key(job)
            before = self._known.pop(key, None)
            self._known[key] = _Known(1 if before is None else before.strikes + 1, verdict)
            while len(self._known) > MOST:
                self._known.popitem(last=False)


def _key(job: Job) -> bytes:
    # As text: 1 == True, but they are different tests.
    return hashlib.sha256(repr(replace(job, id="")).encode("utf-8", "surrogatepass")).digest()
