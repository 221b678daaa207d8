"""SIGTERM and SIGINT ask a run to save and end; a second SIGINT ends it at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Whether the run was told to stop."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._asked = False

    def __call__(self) -> bool:
        return self._asked

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals until the block ends. Does nothing outside of the main thread."""
        try:
            before: dict[signal.Signals, Any] = {number: signal.getsignal(number) for number in _SIGNALS}
            self.listen()
        except ValueError:  # not the main thread: whoever owns it handles signals
            yield
            return
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def listen(self) -> None:
        """Install the handlers."""
        for number in _SIGNALS:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._asked and number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
            return
        if not self._asked:
            self._asked = True
            self._say("stopping at the next step or batch, training saved (Ctrl-C again ends at once)")
