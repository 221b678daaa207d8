"""Lets new weights in between two tokens: generations pass one token at a time, a writer goes before all of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from posttrain.errors import RunError

PATIENCE = 600.0  # seconds: far longer than a token, or a copy of the weights, can take


class WeightGate:
    """Many may be inside `token` together; whoever is `alone` is so, and is let in before the next token."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._one = threading.Lock()
        self._inside = 0
        self._wanted = False

    @contextmanager
    def token(self) -> Iterator[None]:
        """For the time of one token. Not to be held over a `yield` to others."""
        with self._changed:
            self._wait(lambda: not self._wanted)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Between two tokens, with nobody else inside."""
        with self._one:
            with self._changed:
                self._wanted = True
                try:
                    self._wait(lambda: not self._inside)
                except BaseException:
                    self._wanted = False
                    raise
            try:
                yield
            finally:
                with self._changed:
                    self._wanted = False
                    self._changed.notify_all()

    def _wait(self, ready: object) -> None:
        if not self._changed.wait_for(ready, timeout=PATIENCE):  # type: ignore[arg-type]
            raise RunError(f"a rollout worker stood still for {PATIENCE:.0f} s between two tokens")
