"""Which environments a recipe can name, and whether what it names is there: nothing here runs somebody's code."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from posttrain.configs.loading.problems import closest
from posttrain.configs.nodes.agents import EnvironmentUse
from posttrain.errors import InputError
from posttrain.rewards.mixture.loader import split_path
from posttrain.rewards.mixture.sources import class_parameters, source_of

ENVIRONMENTS = {
    "calculator": "posttrain.rewards.environments.calculator:Calculator",
    "python": "posttrain.rewards.environments.python:Python",
    "search": "posttrain.rewards.environments.search:Search",
}
"""By name, where each of the package stands."""


def check_environment(use: EnvironmentUse, recipe_dir: Path) -> None:
    """Raises InputError if nothing has the name `use.use`, or it takes no such parameter. Imports no user code."""
    parts = split_path(ENVIRONMENTS.get(use.use, use.use))
    if parts is None:
        hint = closest(use.use, ENVIRONMENTS)
        raise InputError(f"there is no environment {use.use!r}; {hint}", fix="or name path/to/file.py:Class")
    module, attribute = parts
    packaged = use.use in ENVIRONMENTS
    path = _packaged_file(module) if packaged else source_of(use.use, recipe_dir)
    if path is None:
        if not importlib.util.find_spec(module.partition(".")[0]):
            raise InputError(f"environment {use.use!r}: there is no package {module.partition('.')[0]!r}")
        return
    if not path.is_file():
        raise InputError(f"environment {use.use!r}: no file {path}", fix="the path starts at the recipe's folder")
    try:
        known = class_parameters(path, attribute)
    except SyntaxError as error:
        raise InputError(f"environment {use.use!r}: {error.msg}", where=f"{path}:{error.lineno}") from error
    except LookupError:
        raise InputError(f"environment {use.use!r}: {path.name} defines no {attribute!r}", where=str(path)) from None
    unknown = sorted(set(use.params) - set(known)) if known is not None else []
    if unknown:
        raise InputError(f"environment {use.use!r} has no parameter {unknown[0]!r}; {closest(unknown[0], known or ())}")


def _packaged_file(module: str) -> Path:
    return Path(__file__).resolve().parent / f"{module.rpartition('.')[2]}.py"
