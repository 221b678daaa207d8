"""How many calls one actor judges at a time: a few at work, and more beside those that have run for long.

Most programs take milliseconds; one that has run for long sleeps, or has a processor's time limit to use up. Neither
should hold up the others: so only calls whose job is new count against AT_WORK. What bounds all of them is MOST, and
the host's memory: each might still take its whole limit.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

AT_WORK, MOST = 4, 8
"""Calls with a job that is new, and all calls: more rooms would need more memory for no more processors."""
LONG_S = 0.3
"""After so long a job counts as one that runs for long."""
_LOOK_S = 0.05
Began = Callable[[], None]


class Places:
    """Several threads share it. `available_mb` tells the host's free memory."""

    def __init__(self, available_mb: Callable[[], float] | None = None) -> None:
        self._changed = threading.Condition()
        self._since: dict[int, float] = {}
        self._available_mb = available_mb or _available_mb

    @contextlib.contextmanager
    def take(self, memory_mb: int) -> Iterator[Began]:
        """A place for a call whose jobs may take so much memory. Waits until there is one: no longer than the calls
        before it take, which their jobs' limits bound. What it yields is to be called as each job begins.
        """
        me = threading.get_ident()

        def began() -> None:
            self._since[me] = time.monotonic()

        with self._changed:
            while not self._fits(memory_mb):
                self._changed.wait(_LOOK_S)
            began()
        try:
            yield began
        finally:
            with self._changed:
                del self._since[me]
                self._changed.notify_all()

    def _fits(self, memory_mb: int) -> bool:
        now = time.monotonic()
        if sum(now - since < LONG_S for since in self._since.values()) >= AT_WORK:
            return False
        if len(self._since) < AT_WORK:
            return True
        # A job has two rooms, and those before it may take more than they have by now.
        return len(self._since) < MOST and self._available_mb() > 2 * memory_mb * (len(self._since) + 1)


def _available_mb() -> float:
    """What the host could still give, by its own estimate; 0 where it doesn't say."""
    with contextlib.suppress(OSError, ValueError), open("/proc/meminfo") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) / 1024
    return 0.0
