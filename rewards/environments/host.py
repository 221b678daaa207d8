"""The process that environments live in: a service of `rewards.worker`. A request is about one episode.

Everything runs on the main thread of that process, where an alarm ends a tool that takes too long in Python; one
that hangs in C is ended with its process by whoever asked.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from posttrain.rewards.environments.base import call_tool, schemas_of
from posttrain.rewards.environments.registry import ENVIRONMENTS
from posttrain.rewards.mixture import loader

T = TypeVar("T")


class TooLong(BaseException):
    """A tool took too long. No Exception: a tool's own `except Exception` mustn't swallow it."""


class Host:
    """Holds the episodes of one process by name."""

    wants: tuple[str, ...] = ()

    def __init__(self, use: str, recipe_dir: str, params: Mapping[str, Any], sandbox_tier: str, timeout_s: float):
        self._factory: Callable[..., Any] = loader.load(ENVIRONMENTS.get(use, use), recipe_dir).function
        self._params, self._tier, self._timeout_s = params, sandbox_tier, timeout_s
        self._recipe_dir = Path(recipe_dir)
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
        self._episodes[request["episode"]] = environment = self._make()
        said = self._bounded("reset", self._timeout_s, lambda: environment.reset(**request["columns"]))
        if said is not None and not isinstance(said, str):
            raise TypeError(f"reset must return text or None, this is a {type(said).__name__}")
        return said

    def _call(self, request: Mapping[str, Any]) -> list[str]:
        """What each call of a turn gave, in order; together they have the time of one."""
        environment = self._episode(request)
        deadline = time.monotonic() + self._timeout_s
        answers = []
        for name, arguments in request["calls"]:
            left = deadline - time.monotonic()
            try:
                if left <= 0:
                    raise TimeoutError
                answers.append(self._bounded(name, left, partial(call_tool, environment, name, arguments)))
            except TimeoutError:
                answers.append(f"error: {name}: no answer within {self._timeout_s:g} s")
        return answers

    def _end(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The outcome's columns, and `environment_reward` where the environment gives one."""
        environment = self._episode(request)
        del self._episodes[request["episode"]]
        try:
            return self._bounded("outcome and get_reward", self._timeout_s, lambda: _outcome(environment))
        finally:
            _close(environment)

    def _make(self) -> Any:
        environment = self._factory(**self._params)
        environment.sandbox_tier, environment.recipe_dir = self._tier, self._recipe_dir
        return environment

    def _episode(self, request: Mapping[str, Any]) -> Any:
        if request["episode"] not in self._episodes:
            raise LookupError("the process of this episode ended, by the fault of another that lived in it")
        return self._episodes[request["episode"]]

    @staticmethod
    def _bounded(what: str, seconds: float, do: Callable[[], T]) -> T:
        """What `do` gives. Raises TimeoutError."""
        try:
            signal.setitimer(signal.ITIMER_REAL, seconds)
            try:
                return do()
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except TooLong:  # it may also ring while it is being put off
            raise TimeoutError(f"{what}: no answer within {seconds:g} s") from None

    @staticmethod
    def _ring(number: int, frame: Any) -> None:
        raise TooLong


def _outcome(environment: Any) -> dict[str, Any]:
    """Plain data only: it crosses to a process that lacks the environment's file. Raises TypeError, ValueError."""
    outcome = dict(environment.outcome()) if hasattr(environment, "outcome") else {}
    try:
        outcome = json.loads(json.dumps(outcome))
    except (TypeError, ValueError) as error:
        raise TypeError(f"outcome must return plain data, as JSON has it: {error}") from None
    reward = environment.get_reward() if hasattr(environment, "get_reward") else None
    return outcome if reward is None else {**outcome, "environment_reward": float(reward)}


def _close(environment: Any) -> None:
    if hasattr(environment, "close"):
        environment.close()
