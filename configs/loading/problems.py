"""Turns what pydantic found wrong into lines that teach.

Each says file and line, the path, what is wrong, and the closest valid key or what is expected there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from posttrain.configs.loading import shape
from posttrain.configs.loading.references import has_reference
from posttrain.configs.nodes.strict import Path_
from posttrain.errors import RecipeError

ELSEWHERE = {
    "learning_rate": "lr", "max_steps": "steps",
    "epochs": "steps", "num_epochs": "epochs", "num_train_epochs": "epochs", "total_epochs": "epochs",
    "batch_size": "prompts_per_step", "train_batch_size": "batch_size", "per_device_train_batch_size": "batch_size",
    "num_generations": "group_size", "beta": "kl", "temp": "temperature", "max_new_tokens": "max_tokens",
    "max_completion_length": "max_tokens", "max_response_length": "max_tokens", "max_seq_length": "max_length",
    "warmup_steps": "warmup", "max_grad_norm": "clip_norm", "r": "rank", "lora_alpha": "alpha", "lora_r": "rank",
    "reward_funcs": "rewards", "train_dataset": "data", "save_steps": "checkpoint_every",
}  # fmt: skip
"""Ours for names of TRL, verl and peft."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong."""

    path: Path_
    what: str

    def line(self, where: str) -> str:
        return f"{where}: {dotted(self.path)}: {self.what}" if self.path else f"{where}: {self.what}"


def dotted(path: Path_) -> str:
    """A path as overrides write it.

    >>> dotted(("stages", "rl", "rewards", 0, "use"))
    'stages.rl.rewards.0.use'
    """
    return ".".join(str(part) for part in path)


def closest(word: str, valid: Iterable[str]) -> str:
    """A hint: the closest valid word, or all of them when none is close and they are few."""
    valid = list(dict.fromkeys(valid))
    if match := get_close_matches(word, valid, n=1, cutoff=0.6):
        return f"did you mean `{match[0]}`?"
    return f"valid: {', '.join(valid)}" if valid else "no key is valid here"


def problems_of(error: ValidationError, data: Any, raw: Any) -> list[Problem]:
    """The problems in `data`; values that came from the environment (references in `raw`) aren't repeated."""
    found: dict[Path_, list[str]] = {}
    for detail in error.errors(include_url=False):
        path, what = _explain(detail, data, raw)
        texts = found.setdefault(path, [])
        if what not in texts:
            texts.append(what)
    return [Problem(path=path, what=" or ".join(texts)) for path, texts in found.items()]


def recipe_error(problems: list[Problem], where: Callable[[Path_], str]) -> RecipeError:
    """One error with all `problems`, in the order of the file."""
    lines = [problem.line(where(problem.path)) for problem in problems]
    if len(lines) == 1:
        return RecipeError(lines[0])
    return RecipeError(f"{len(lines)} things are wrong in the recipe:\n" + "\n".join(lines))


def _explain(detail: Any, data: Any, raw: Any) -> tuple[Path_, str]:
    kind, path = detail["type"], _clean(detail["loc"], data, keep_last=detail["type"] == "missing")
    if kind == "extra_forbidden":
        parent, word = path[:-1], str(path[-1])
        valid = shape.keys(shape.type_at(parent, data), _at(data, parent))
        return path, f"unknown key; {meant(word, valid, parent, data)}"
    if kind == "missing":
        return path, f"is missing; expected {shape.describe(shape.type_at(path, data))}"
    if kind == "union_tag_not_found":
        return (*path, "kind"), "is missing; one of " + ", ".join(_kinds(data))
    if kind == "union_tag_invalid":
        word = str(detail["ctx"]["tag"])
        return (*path, "kind"), f"unknown kind {word!r}; {closest(word, _kinds(data))}"
    value, hidden = _at(data, path), has_reference(_at(raw, path))
    if kind == "value_error":
        return path, str(detail["ctx"]["error"])
    if kind == "literal_error":
        valid = str(detail["ctx"]["expected"]).replace("'", "").replace(" or ", ", ").split(", ")
        hint = closest(value, valid) if isinstance(value, str) and not hidden else f"valid: {', '.join(valid)}"
        return path, (f"{value!r} isn't valid here; {hint}" if not hidden else hint)
    what = detail["msg"].replace("Input should be", "should be").removesuffix(", unable to parse string as a number")
    if hidden or isinstance(value, dict | list):
        return path, what
    return path, f"{what}, got {value!r}"


def meant(word: str, valid: Iterable[str], parent: Path_, data: Any) -> str:
    """`closest`; unless it's a slip of the pen, before it the key one level down that has this name, or ours for what
    other trainers call so.
    """
    valid = list(valid)
    if get_close_matches(word, valid, n=1, cutoff=0.8):
        return closest(word, valid)
    ours = ELSEWHERE.get(word, "")
    for name in (word, ours, ELSEWHERE.get(ours, "")):
        if name in valid:
            return f"did you mean `{name}`?"
        below = (key for key in valid if name in shape.keys(shape.type_at((*parent, key), data), None))
        if len(name) > 1 and (key := next(below, None)):
            return f"did you mean `{key}.{name}`?"
    return closest(word, valid)


def _kinds(data: Any) -> list[str]:
    stage = shape.type_at(("stages", "any"), {})
    return [kind for option in shape.options(stage) for kind in option.model_fields["kind"].annotation.__args__]


def _clean(location: Iterable[str | int], data: Any, *, keep_last: bool) -> Path_:
    """Keep the parts that are in the data: pydantic adds the choice of a union (`grpo`) to a path."""
    location, path = list(location), []
    for index, part in enumerate(location):
        there = (isinstance(data, dict) and part in data) or (isinstance(data, list) and isinstance(part, int))
        if there or (keep_last and index == len(location) - 1):
            path.append(part)
            data = shape.child(data, part)
    return tuple(path)


def _at(data: Any, path: Path_) -> Any:
    for part in path:
        data = shape.child(data, part)
    return data
