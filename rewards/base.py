"""The rewards a recipe can name, and how other functions are found.

`use:` is a name of BUILTINS, `package.module:attr`, or `path/to/file.py:attr` (from the recipe's folder). A reward is
a function with TRL's signature, sync or async:

    def brevity(prompts, completions, **columns) -> list[float | None]: ...      # None: not applicable to this row

verl's compute_score(data_source, solution_str, ground_truth, extra_info) is known by its parameters' names.
Nothing here imports torch, Ray or math_verify: `posttrain plan` answers in under a second.
"""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from posttrain.configs.schema import RewardUse
from posttrain.errors import DataError, InputError
from posttrain.rewards.builtins import BUILTINS
from posttrain.rewards.contract import BuiltinReward, parameters
from posttrain.rewards.mixture.loader import NO_GOLD, VERL, gold_of, split_path
from posttrain.rewards.mixture.sources import definition, files_of, source_of
from posttrain.rewards.models.asked import MODEL_FIELDS, check_models
from posttrain.types import Prompt

__all__ = [
    "BUILTINS",
    "applies",
    "check_columns",
    "check_use",
    "files_of",
    "needed_columns",
    "needs_gold",
    "row_columns",
]

_GIVEN = {"prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric", "self"}
_ROW_FIELDS = {"task", "domain", "mode", "id"}
_VERL_FIELDS = {"data_source", "solution_str", "extra_info", "ground_truth"}


def check_use(use: RewardUse, recipe_dir: Path) -> None:
    """Raises InputError if nothing has the name `use.use`, or its parameters are wrong. Imports no user code."""
    parts = split_path(use.use)
    if parts is None:
        _check_builtin(use)
        return
    check_models(use, None)
    where, attribute = parts
    path = source_of(use.use, recipe_dir)
    if path is not None:
        _check_file(path, attribute, use.use)
        return
    try:
        found = importlib.util.find_spec(where.partition(".")[0]) or _beside(recipe_dir, where)
    except ValueError:
        found = True
    if not found:
        raise InputError(f"reward {use.use!r}: there is no package {where.partition('.')[0]!r}", where="rewards")


def _beside(recipe_dir: Path, module: str) -> bool:
    head = recipe_dir / module.partition(".")[0]
    return head.is_dir() or head.with_suffix(".py").is_file()


def _check_builtin(use: RewardUse) -> None:
    builtin = BUILTINS.get(use.use)
    if builtin is None:
        close = difflib.get_close_matches(use.use, BUILTINS, n=1)
        raise InputError(
            f"there is no reward {use.use!r}",
            where="rewards",
            fix=f"did you mean {close[0]!r}?" if close else "see `posttrain rewards list`, or name file.py:function",
        )
    missing = [p for p in builtin.params if p not in use.params]
    if missing:
        raise InputError(
            f"reward {use.use!r} needs the parameter {missing[0]!r}",
            where="rewards",
            fix=f"in a recipe, params: {{{missing[0]}: ...}}; in `posttrain rewards score`, --params JSON",
        )
    check_models(use, builtin)
    _check_params(use, builtin)


def _check_params(use: RewardUse, builtin: BuiltinReward) -> None:
    known = parameters(builtin)
    for name, value in use.params.items():
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            names = ", ".join(known) or "none"
            raise InputError(
                f"reward {use.use!r} has no parameter {name!r}",
                where="rewards",
                fix=f"did you mean {close[0]!r}?" if close else f"its parameters: {names}",
            )
        try:
            TypeAdapter(known[name].annotation).validate_python(value, strict=True)
        except ValidationError as error:
            wrong = error.errors()[0]["msg"]
            raise InputError(f"reward {use.use!r}, parameter {name!r}: {wrong}", where="rewards") from None
    asks = {builtin.needs: None} if builtin.needs in MODEL_FIELDS else {}
    if asks or (builtin.needs in ("nothing", "worker") and builtin.kind == "rule"):
        try:  # no rows to judge: what it refuses are parameters that don't go together
            builtin.function([], [], **{name: [] for name in builtin.columns}, **use.params, **asks)
        except ValueError as error:
            raise InputError(f"reward {use.use!r}: {error}", where="rewards") from None


def _check_file(path: Path, attribute: str, use: str) -> None:
    if not path.is_file():
        raise InputError(
            f"reward {use!r}: no file {path}", where="rewards", fix="the path starts at the recipe's folder"
        )
    try:
        found = definition(path, attribute)
    except SyntaxError as error:
        raise InputError(f"reward {use!r}: {error.msg}", where=f"{path}:{error.lineno}") from error
    except OSError as error:
        raise InputError(f"reward {use!r}: {error.strerror}", where=str(path)) from None
    if found is False:
        raise InputError(f"reward {use!r}: {path.name} defines no {attribute!r}", where=str(path))


def row_columns(prompt: Prompt) -> dict[str, Any]:
    """What rewards and `when` read of a prompt: its columns, and task, domain, mode and id."""
    mode = prompt.mode if prompt.mode != "default" else prompt.columns.get("mode", prompt.mode)
    task, domain = prompt.task or prompt.columns.get("task", ""), prompt.domain or prompt.columns.get("domain", "")
    return {**prompt.columns, "task": task, "domain": domain, "mode": mode, "id": prompt.id}


def applies(use: RewardUse, columns: Mapping[str, Any]) -> bool:
    """Whether a row meets the reward's `when`."""
    return fits(use.when, columns)


def fits(when: Mapping[str, Any], columns: Mapping[str, Any]) -> bool:
    """Whether a row meets `when`: every column equal; a list means any of its values."""
    for name, wanted in when.items():
        options = wanted if isinstance(wanted, list | tuple) else [wanted]
        if columns.get(name) not in options:
            return False
    return True


def needed_columns(use: RewardUse, recipe_dir: Path | None = None) -> tuple[str, ...]:
    """Columns a reward can't do without, as far as can be known without importing it.

    A ground truth isn't among them, which verl's functions find in one of several columns: see `needs_gold`.
    """
    if split_path(use.use) is None:
        _check_builtin(use)
        return BUILTINS[use.use].columns
    required, optional = _parameters(use, recipe_dir)
    ignored = _GIVEN | _ROW_FIELDS | set(use.params) | (_VERL_FIELDS if {*required, *optional} >= VERL else set())
    return tuple(name for name in required if name not in ignored)


def needs_gold(use: RewardUse, recipe_dir: Path | None = None) -> bool:
    """Whether it is a verl function, which a row without a ground truth can't be judged by (see `gold_of`)."""
    required, optional = _parameters(use, recipe_dir)
    return {*required, *optional} >= VERL and "ground_truth" not in use.params


def _row_problem(use: RewardUse, columns: Mapping[str, Any]) -> str | None:
    builtin = None if split_path(use.use) else BUILTINS[use.use]
    if builtin is None or builtin.check is None:
        return None
    return builtin.check({**columns, **{name: use.params[name] for name in builtin.either if name in use.params}})


def _parameters(use: RewardUse, recipe_dir: Path | None) -> tuple[list[str], list[str]]:
    """Names of the parameters without and with a default; none where the function can't be read."""
    parts = split_path(use.use)
    path = source_of(use.use, recipe_dir) if recipe_dir is not None else None
    found = definition(path, parts[1]) if parts and path is not None else False
    if isinstance(found, bool):
        return [], []
    arguments = found.args
    positional = [*arguments.posonlyargs, *arguments.args]
    first = len(positional) - len(arguments.defaults)
    keywords = list(zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True))
    required = [*positional[:first], *(a for a, default in keywords if default is None)]
    optional = [*positional[first:], *(a for a, default in keywords if default is not None)]
    return [a.arg for a in required], [a.arg for a in optional]


def check_columns(uses: Sequence[RewardUse], prompts: Sequence[Prompt], recipe_dir: Path | None = None) -> None:
    """Raises DataError, naming the row, where a reward applies to one that it couldn't judge."""
    needs = [(use, needed_columns(use, recipe_dir), needs_gold(use, recipe_dir)) for use in uses]
    for number, prompt in enumerate(prompts, 1):
        columns = row_columns(prompt)
        for use, names, gold in needs:
            if not applies(use, columns):
                continue
            where = f"row {number} ({prompt.id})"
            for name in names:
                if columns.get(name) is None:
                    raise DataError(
                        f"reward {use.use!r} reads the column {name!r}, and this row has none",
                        where=where,
                        fix=f"map a column to {name!r}, or limit the reward with `when`",
                    )
            problem = _row_problem(use, columns)
            if problem:
                raise DataError(f"reward {use.use!r}: {problem}", where=where, fix="fix the row, or leave it out")
            if gold and gold_of(columns) is None:
                raise DataError(
                    f"reward {use.use!r} reads a ground truth, and this row has no {NO_GOLD}",
                    where=where,
                    fix="map a column to `ground_truth`, or limit the reward with `when`",
                )
