"""Episodes, from the side of a rollout: processes that hold environments, and what is asked of them."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.configs.nodes.agents import EnvironmentUse
from posttrain.errors import RewardError
from posttrain.rewards.mixture.confinement import process_for
from posttrain.rewards.mixture.workers import CallFailed, LoadFailed, Process, Service
from posttrain.rewards.models.fence import neutral

GRACE_S = 5.0
"""What a process gets beyond the time of its tools, before it is killed."""


class EpisodeFailed(Exception):
    """The environment couldn't go on, through no fault of the policy; `str` is why, with the traceback if any."""


class EnvironmentPool:
    """Episodes of one environment, spread over killable processes; safe to call from several threads.

    Processes start when first needed. One that hangs in C or dies takes its own episodes with it, and is started anew
    for later ones.
    """

    def __init__(self, use: EnvironmentUse, recipe_dir: Path, sandbox_tier: str = "B") -> None:
        self.use = use
        service = Service(
            module="posttrain.rewards.environments.host",
            attribute="Host",
            arguments=(use.use, str(recipe_dir.resolve()), use.params, sandbox_tier, use.timeout),
        )
        folder = recipe_dir.resolve()
        self._workers = [process_for(service, use, folder, stateful=True) for _ in range(use.processes)]
        self._turn = itertools.cycle(range(use.processes))
        self._lock = threading.Lock()
        self._homes: dict[str, Process] = {}
        self._tools: list[dict[str, Any]] | None = None

    def tools(self) -> list[dict[str, Any]]:
        """JSON schemas of the tools. Raises RewardError."""
        if self._tools is None:
            try:
                self._tools = self._ask(self._workers[0], {"do": "tools"}, self.use.timeout)
            except EpisodeFailed as error:
                raise RewardError(f"environment {self.use.use!r} has no usable tools:\n{error}") from None
        return self._tools

    def start(self, episode: str, columns: Mapping[str, Any]) -> str:
        """A new episode; what `reset` says, or nothing. Raises EpisodeFailed."""
        with self._lock:
            self._homes[episode] = home = self._workers[next(self._turn)]
        request = {"do": "start", "episode": episode, "columns": dict(columns)}
        return neutral(self._ask(home, request, self.use.timeout) or "")

    def call(self, episode: str, calls: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
        """What the tools say, one text a call, cut to `max_characters`. Raises EpisodeFailed.

        Marks of chat templates in it are broken up: a tool must not be able to end its turn and speak for others.
        """
        request = {"do": "call", "episode": episode, "calls": [(name, dict(given)) for name, given in calls]}
        answers = self._ask(self._homes[episode], request, self.use.timeout)
        return [cut(neutral(text), self.use.max_characters) for text in answers]

    def end(self, episode: str) -> dict[str, Any]:
        """Columns about how the episode ended; it is forgotten in any case. Raises EpisodeFailed."""
        with self._lock:
            home = self._homes.pop(episode, None)
        return {} if home is None else dict(self._ask(home, {"do": "end", "episode": episode}, self.use.timeout))

    def close(self) -> None:
        """Ends the processes."""
        for worker in self._workers:
            worker.close()

    def _ask(self, worker: Process, request: Mapping[str, Any], seconds: float) -> Any:
        try:
            return worker.call(request, seconds + GRACE_S)
        except LoadFailed as error:
            raise RewardError(f"environment {self.use.use!r} can't be loaded:\n{error}") from None
        except CallFailed as error:
            raise EpisodeFailed(f"environment {self.use.use!r}: {error}") from None


def cut(text: str, most: int) -> str:
    """At most `most` characters: the middle of a longer text is left out, and said to be.

    >>> cut("a" * 100, 30)
    'aaa ... [94 more] ... aaa'
    """
    if len(text) <= most:
        return text
    kept = max(1, (most - 24) // 2)
    return f"{text[:kept]} ... [{len(text) - 2 * kept} more] ... {text[-kept:]}"
