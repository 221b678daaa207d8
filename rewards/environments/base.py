"""What an environment is, and how its tools are shown and called.

The class is the one that TRL's `environment_factory` takes (TRL 1.x, GRPOTrainer): `reset`, tools as public methods,
`get_reward`. A class written for it works here as it is, without this base.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, ValidationError, validate_call

from posttrain.errors import PosttrainError

NOT_TOOLS = frozenset({"reset", "get_reward", "outcome", "close"})
"""Public methods that a model can't call."""


class Environment:
    """One episode's world: one instance a completion, used by one thread at a time.

    Its public methods are the tools. Each needs type hints and a docstring in Google's style, from which the model is
    told what it does. What a tool returns is told to the model as text; what it raises, as an error, except for
    errors of `posttrain.errors`, ImportError, ConnectionError and MemoryError, which say that the environment itself
    failed: such an episode isn't scored.

    >>> class Counter(Environment):
    ...     def reset(self, **columns):
    ...         self.count = int(columns.get("start", 0))
    ...     def add(self, n: int) -> int:
    ...         '''Adds to the counter.
    ...
    ...         Args:
    ...             n: how much
    ...         '''
    ...         self.count += n
    ...         return self.count
    """

    sandbox_tier: str = "B"
    """The weakest tier of the sandbox that the recipe's cluster accepts; for tools that run code."""
    recipe_dir: Path = Path()
    """The recipe's folder: paths in `params` start here."""

    def reset(self, **columns: Any) -> str | None:
        """Starts an episode on a row's columns; a text is appended to the last user turn.

        All completions of a prompt must be told the same: derive what is random from the columns.
        """

    def get_reward(self) -> float | None:
        """What the episode earned, once it's over; the reward `environment` pays it. None: nothing to say."""
        return None

    def outcome(self) -> Mapping[str, Any]:
        """Columns about how the episode ended, for rewards: plain data. Called once it's over."""
        return {}

    def close(self) -> None:
        """Ends what the episode holds. Called once, whatever happened."""


def tools_of(environment: Any) -> dict[str, Callable[..., Any]]:
    """The tools of an instance by name, in alphabetical order."""
    members = inspect.getmembers(environment, predicate=inspect.ismethod)
    return {name: method for name, method in members if not name.startswith("_") and name not in NOT_TOOLS}


def schemas_of(environment: Any) -> list[dict[str, Any]]:
    """The tools as JSON schemas of functions, for the chat template.

    Raises:
        TypeError: there is no tool, or one lacks type hints or a docstring.
    """
    tools = tools_of(environment)
    if not tools:
        raise TypeError(f"{type(environment).__name__} has no tool: write a public method")
    found = []
    for name, method in tools.items():
        try:
            schema = _schema(method)
        except Exception as error:
            raise TypeError(f"the tool {type(environment).__name__}.{name}: {error}") from error
        schema["function"].pop("return", None)  # models are trained on schemas of arguments alone
        found.append(schema)
    return found


def _schema(method: Callable[..., Any]) -> dict[str, Any]:
    """transformers' schema of a function.

    It asks for torch, to know tensors among the annotations, and would load it, for seconds, into each process of an
    environment; where it isn't loaded, no annotation is a tensor.
    """
    from transformers.utils import chat_template_utils

    asked = chat_template_utils.is_torch_available
    chat_template_utils.is_torch_available = lambda: "torch" in sys.modules
    try:
        return dict(chat_template_utils.get_json_schema(method))
    finally:
        chat_template_utils.is_torch_available = asked


def call_tool(environment: Any, name: str, arguments: Mapping[str, Any]) -> str:
    """What the model is told: what the tool returned, or `error: ...`.

    Raises:
        PosttrainError, ImportError, ConnectionError, MemoryError: the tool raised it: the environment itself failed,
            and the episode can't be scored.
    """
    tool = tools_of(environment).get(name)
    if tool is None:
        return f"error: there is no tool {name!r}; there are {', '.join(tools_of(environment))}"
    try:
        value = validate_call(config=ConfigDict(arbitrary_types_allowed=True))(tool)(**arguments)
    except ValidationError as error:
        first = error.errors()[0]
        argument = ".".join(map(str, first["loc"]))
        return f"error: {name}: argument {argument}: {first['msg']}"
    except (PosttrainError, ImportError, ConnectionError, MemoryError):  # nothing that a model could do better
        raise
    except Exception as error:  # noqa: BLE001  a tool may raise anything: the model is told, and may do better
        return f"error: {name}: {type(error).__name__}: {error}"
    return as_text(value)


def as_text(value: Any) -> str:
    """What a tool returned, as the model reads it: text as it is, other values as JSON where they can be."""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return str(value)
