"""Finds a reward function by name and calls it in the form its author wrote it for.

Runs in a worker process: a reward file is somebody's code.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from posttrain.rewards.contract import RowError

VERL = frozenset({"data_source", "solution_str", "ground_truth"})
"""A function with parameters of these names is one of verl's."""

NO_GOLD = "`ground_truth`, no `reward_model` with one, and no `answer`"
_TRL_EXTRAS = ("completion_ids", "trainer_state", "log_extra", "log_metric")


@dataclass(frozen=True)
class LoadedReward:
    """A function and the convention it follows."""

    function: Callable[..., Any]
    is_verl: bool
    parameters: frozenset[str]
    any_keyword: bool

    def accepts(self, name: str) -> bool:
        """Whether it may be passed the keyword `name`."""
        return self.any_keyword or name in self.parameters


def split_path(use: str) -> tuple[str, str] | None:
    """(where, attribute) of `package.module:attr` or `path/to/file.py:attr`; None for a plain name."""
    where, colon, attribute = use.rpartition(":")
    return (where, attribute) if colon else None


def load(use: str, recipe_dir: str) -> LoadedReward:
    """Imports what `use` names. Raises ImportError, AttributeError, TypeError, or what the file itself raises."""
    parts = split_path(use)
    if parts is None:
        raise ImportError(f"{use!r} is neither package.module:attr nor path/to/file.py:attr")
    where, attribute = parts
    if recipe_dir not in sys.path:
        sys.path.insert(0, recipe_dir)
    module = _import_file(Path(recipe_dir) / where) if where.endswith(".py") else importlib.import_module(where)
    function = getattr(module, attribute)
    if not callable(function):
        raise TypeError(f"{use} is a {type(function).__name__}, not a function")
    return inspected(function)


def inspected(function: Callable[..., Any]) -> LoadedReward:
    """A function with the convention that its parameters follow: verl's or TRL's."""
    parameters = inspect.signature(function).parameters
    return LoadedReward(
        function=function,
        is_verl=set(parameters) >= VERL,
        parameters=frozenset(parameters),
        any_keyword=any(p.kind is p.VAR_KEYWORD for p in parameters.values()),
    )


def _import_file(path: Path) -> Any:
    name = f"posttrain_reward_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} can't be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look the module up by name
    spec.loader.exec_module(module)
    return module


def call(
    reward: LoadedReward,
    prompts: list[Any],
    completions: list[Any],
    columns: dict[str, list[Any]],
    params: dict[str, Any],
    extras: dict[str, Any],
) -> list[float | RowError | None]:
    """One value a row: a RowError where it is no finite number, or there was no gold to judge by.

    Raises ValueError if the function gives anything else; else what the function raises.
    """
    if reward.is_verl:
        values = [_call_verl(reward, i, completions, columns, params) for i in range(len(completions))]
    else:
        keywords = {k: v for k, v in {**columns, **extras, **params}.items() if reward.accepts(k)}
        values = _await(reward.function(prompts=prompts, completions=completions, **keywords))
    return _checked(values, len(completions))


def _call_verl(
    reward: LoadedReward, i: int, completions: Sequence[Any], columns: dict[str, list[Any]], params: dict[str, Any]
) -> Any:
    row = {name: values[i] for name, values in columns.items()}
    text = completions[i] if isinstance(completions[i], str) else completions[i][-1]["content"]
    keywords = {
        "data_source": row.get("data_source") or row.get("task"),
        "solution_str": text,
        "ground_truth": gold_of(row),
        "extra_info": row.get("extra_info") or {},
        **params,
    }
    if keywords["ground_truth"] is None:  # compared with None, every completion would be wrong
        return RowError(f"the row has no {NO_GOLD}")
    value = _await(reward.function(**{k: v for k, v in keywords.items() if reward.accepts(k)}))
    return value["score"] if isinstance(value, dict) else value


def gold_of(row: Mapping[str, Any]) -> Any:
    """What verl's functions judge by: `ground_truth`, else that of `reward_model`, else `answer`; None if none."""
    nested = row.get("reward_model")
    found = (row.get("ground_truth"), nested.get("ground_truth") if isinstance(nested, Mapping) else None)
    return next((gold for gold in (*found, row.get("answer")) if gold is not None), None)


def _await(value: Any) -> Any:
    async def wait() -> Any:
        return await value

    return asyncio.run(wait()) if inspect.isawaitable(value) else value


def _checked(values: Any, rows: int) -> list[float | RowError | None]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(f"the reward must give a list with one number a completion, this is {values!r}")
    values = list(values)
    if len(values) != rows:
        raise ValueError(f"the reward gave {len(values)} values for {rows} completions")
    return [v if v is None or isinstance(v, RowError) else _finite(float(v)) for v in values]


def _finite(value: float) -> float | RowError:
    # One nan in a group makes the advantages of all its completions nan, and then the model.
    return value if math.isfinite(value) else RowError(f"the reward gave {value}, which is no finite number")


def extras_of(reward: LoadedReward) -> tuple[str, ...]:
    """Which of TRL's extra keywords it takes by name or by **."""
    return tuple(name for name in _TRL_EXTRAS if reward.accepts(name))
