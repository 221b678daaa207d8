"""Answers by content: what was asked before isn't asked again, and who asks what is being asked waits for that."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, Generic, TypeVar

from posttrain.rewards.contract import RowError

T = TypeVar("T")
REMEMBERED = 4096
"""Answers that are kept; a step has as many conversations as completions."""


def content_key(*parts: Any) -> str:
    """A hash of plain data: of the messages of a conversation, say."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


class Answers(Generic[T]):
    """The last answers by key. Failures aren't kept."""

    def __init__(self, size: int = REMEMBERED) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._known: OrderedDict[Hashable, Future[T | RowError]] = OrderedDict()

    def claim(self, keys: Sequence[Hashable]) -> tuple[list[Future[T | RowError]], list[int]]:
        """A future a key, and the positions whose answers the caller now owes: it must set those futures."""
        futures: list[Future[T | RowError]] = []
        owed: list[int] = []
        with self._lock:
            for position, key in enumerate(keys):
                future = self._known.get(key)
                if future is None or _failed(future):
                    future = self._known[key] = Future()
                    owed.append(position)
                self._known.move_to_end(key)
                futures.append(future)
            while len(self._known) > self._size:
                self._known.popitem(last=False)
        return futures, owed


def gather(futures: Sequence[Future[T | RowError]], deadline: float, late: str) -> list[T | RowError]:
    """The answers, those that aren't there at `deadline` (`time.monotonic`) as errors that say `late`.

    Raises what the asking raised: RewardError, where no question can be answered.
    """
    answers: list[T | RowError] = []
    for future in futures:
        try:
            answers.append(future.result(timeout=max(0.0, deadline - time.monotonic())))
        except FutureTimeout:
            answers.append(RowError(late))
    return answers


def _failed(future: Future[Any]) -> bool:
    return future.done() and (future.exception() is not None or isinstance(future.result(), RowError))
