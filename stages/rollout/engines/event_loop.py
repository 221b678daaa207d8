"""An asyncio event loop in a thread of its own, for an engine that is asynchronous in a worker that isn't."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future, wait
from typing import Any, TypeVar

from posttrain.errors import RunError

T = TypeVar("T")


class EventLoop:
    """Runs coroutines for other threads."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="engine-loop", daemon=True)
        self._thread.start()

    def start(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Begin it; cancelling the future cancels it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def call(self, coroutine: Coroutine[Any, Any, T], patience: float) -> T:
        """Its result, or what it raised. Raises RunError after `patience` seconds."""
        future = self.start(coroutine)
        try:
            return future.result(timeout=patience)
        except TimeoutError:
            if future.done():
                raise  # the coroutine's own
            future.cancel()
            raise RunError(f"vLLM didn't answer in {patience:.0f} s") from None

    def close(self, patience: float = 10.0) -> None:
        """Cancel what still runs, and end the thread; one that blocks it is left to end with the process."""

        async def cancel() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        wait([self.start(cancel())], timeout=patience)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=patience)
        if not self._loop.is_running():
            self._loop.close()
