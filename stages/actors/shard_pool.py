"""One function over many shards: in Ray actors, or here where there is but one shard or one core.

Results come in the order of the tasks, whoever did them, so that what is made of them is the same for any number of
actors. Few shards are under way at a time: memory doesn't grow with the data.
"""

from __future__ import annotations

import gc
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, count, cycle, islice
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from posttrain.errors import PosttrainError, RunError

MOST = 16
"""Actors: the process that reads the rows can't feed more."""

AHEAD = 2
"""Tasks an actor that are under way: one that it works on and one that waits."""

PATIENCE = 3600.0
"""Seconds for one shard: many times what it takes."""

T = TypeVar("T")
R = TypeVar("R")


class ShardPool(Protocol):
    """Calls a function for each of many tasks."""

    def map(self, work: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
        """`work(task)` of each task, in their order. Both cross processes."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None: ...


class Here:
    """Does all work in this process."""

    def map(self, work: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
        """See ShardPool."""
        return map(work, tasks)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None: ...


class _Actor:
    """The body of an actor: holds one function, and calls it."""

    def __init__(self) -> None:
        os.environ["RAYON_NUM_THREADS"] = "1"  # rensa's threads; there is an actor a core
        import pyarrow as pa

        pa.set_cpu_count(1)

    def hold(self, work: Callable[[Any], Any]) -> None:
        """Keep `work`, and the indices that it has, for the calls to come."""
        self._work = work
        gc.collect()
        gc.freeze()  # an index of held-out items lives on: it needn't be looked through again and again

    def call(self, task: Any) -> Any:
        """What `work` gives; an error of ours as a value, since Ray would wrap it."""
        try:
            return self._work(task)
        except PosttrainError as error:
            return error


class RayShards:
    """Up to `workers` actors, started by the first `map` of more than one task, ended with the `with` block."""

    def __init__(self, start: Callable[[], None], workers: int) -> None:
        self._start, self._workers = start, min(workers, MOST)
        self._actors: list[Any] = []

    def map(self, work: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
        """See ShardPool."""
        source = iter(tasks)
        first = list(islice(source, 2))
        rest = chain(first, source)
        return map(work, rest) if len(first) < 2 or self._workers < 2 else self._spread(work, rest)

    def _spread(self, work: Callable[[T], R], tasks: Iterator[T]) -> Iterator[R]:
        self._start()
        import ray

        if not self._actors:
            actor = ray.remote(num_cpus=0, max_restarts=0)(_Actor)
            self._actors = [actor.remote() for _ in range(self._workers)]
        held = ray.put(work)
        holding = [actor.hold.remote(held) for actor in self._actors]
        # In turn: shards are of one size, and an actor works on its calls in order.
        calls = (actor.call.remote(task) for actor, task in zip(cycle(self._actors), tasks, strict=False))
        for reference in holding:
            _get(reference, "taking the work")
        under_way = deque(islice(calls, AHEAD * len(self._actors)))
        for number in count():
            if not under_way:
                return
            result = _get(under_way.popleft(), f"at part {number}")
            if isinstance(result, PosttrainError):
                raise result
            yield result
            del result  # its memory is freed before the next one comes
            under_way.extend(islice(calls, 1))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._actors:
            import ray

            for actor in self._actors:
                ray.kill(actor)
            self._actors = []


def _get(reference: Any, where: str) -> Any:
    import ray

    try:
        return ray.get(reference, timeout=PATIENCE)
    except ray.exceptions.GetTimeoutError:
        raise RunError(f"a worker on the data wasn't done in {PATIENCE:.0f} s, {where}") from None
    except ray.exceptions.RayTaskError as error:
        raise RunError(f"a worker on the data failed, {where}: {error.cause!r}") from error
    except ray.exceptions.RayError as error:  # it died, was killed for memory, or never started
        raise RunError(
            f"a worker on the data died, {where}: {str(error).splitlines()[0]}",
            fix="was memory short? Run the same command again: it goes on",
        ) from None
