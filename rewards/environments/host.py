"""The process that environments live in: a service of `rewards.worker`. A request is about one episode.

Everything runs on the main thread of that process, where an alarm ends a tool that takes too long in Python; one
that hangs in C is ended with its process by whoever asked.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from typing import Any

from posttrain.rewards import loader
from posttrain.rewards.environments.base import call_tool, schemas_of
from posttrain.rewards.environments.registry import ENVIRONMENTS


class TooLong(BaseException):
    """A tool took too long. No Exception: a tool's own `except Exception` mustn't swallow it."""


class Host:
    """Holds the episodes of one process by name."""

    wants: tuple[str, ...] = ()

    def __init__(self, use: str, recipe_dir: str, params: Mapping[str, Any], sandbox_tier: str, timeout_s: float):
        self._factory: Callable[..., Any] = loader.load(ENVIRONMENTS.get(use, use), recipe_dir).function
        self._params, self._tier, self._timeout_s = params, sandbox_tier, timeout_s
        self._episodes: dict[str, Any] = {}
        signal.signal(signal.SIGALRM, self._ring)

    def __call__(self, request: Mapping[str, Any]) -> Any:
        """Does what `request["do"]` says: tools, start, call or end. Raises what `reset` and the like raise."""
        return getattr(self, f"_{request['do']}")(request)

    def _tools(self, request: Mapping[str, Any]) -> list[dict[str, Any]]:
        environment = self._make()
        try:
            return schemas_of(environment)
        finally:
            _close(environment)

    def _start(self, request: Mapping[str, Any]) -> str | None:
        environment = self._make()
        said = environment.reset(**request["columns"])
        self._episodes[request["episode"]] = environment
        if said is not None and not isinstance(said, str):
            raise TypeError(f"reset must return text or None, this is a {type(said).__name__}")
        return said

    def _call(self, request: Mapping[str, Any]) -> list[str]:
        """What each call of a turn gave, in order."""
        environment = self._episode(request)
        return [self._bounded(environment, name, arguments) for name, arguments in request["calls"]]

    def _end(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The outcome's columns, and `environment_reward` where the environment gives one."""
        environment = self._episode(request)
        del self._episodes[request["episode"]]
        try:
            outcome = dict(environment.outcome()) if hasattr(environment, "outcome") else {}
            reward = environment.get_reward() if hasattr(environment, "get_reward") else None
        finally:
            _close(environment)
        return outcome if reward is None else {**outcome, "environment_reward": float(reward)}

    def _make(self) -> Any:
        environment = self._factory(**self._params)
        environment.sandbox_tier = self._tier
        return environment

    def _episode(self, request: Mapping[str, Any]) -> Any:
        if request["episode"] not in self._episodes:
            raise LookupError("the process of this episode ended, by the fault of another that lived in it")
        return self._episodes[request["episode"]]

    def _bounded(self, environment: Any, name: str, arguments: Mapping[str, Any]) -> str:
        signal.setitimer(signal.ITIMER_REAL, self._timeout_s)
        try:
            return call_tool(environment, name, arguments)
        except TooLong:
            return f"error: {name}: no answer within {self._timeout_s:g} s"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    @staticmethod
    def _ring(number: int, frame: Any) -> None:
        raise TooLong


def _close(environment: Any) -> None:
    if hasattr(environment, "close"):
        environment.close()
