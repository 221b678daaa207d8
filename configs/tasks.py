"""Tasks: prompts paired with the rewards that judge them; written out before the schema looks at a stage.

    tasks: all                                   ->   prompts: [{from: builtin:task-keywords, task: keywords}, ...]
    tasks: [keywords, {use: record, weight: 2}]       rewards: [{use: contains, when: {task: [keywords]}}, ...]

So everything behind (plan, keys, checks, stages) knows prompts and rewards only. A reward that several tasks use
alike, by parameters, weight and gate, is run once, for all of them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from posttrain.configs.loading import shape
from posttrain.configs.loading.problems import Problem, closest
from posttrain.configs.nodes.strict import Path_
from posttrain.configs.schema import PromptSource, RewardUse, Strict

ALL = "all"
HELD_OUT = 20
"""Rows a task in an evaluation suite, unless it says `n`."""


class Task(Strict):
    """A task that comes with the package: an entry of `configs/tasks.yaml`."""

    group: str
    """One of the report's five abilities (Qwen3, 4.4)."""
    about: str
    prompts: PromptSource
    rewards: tuple[RewardUse, ...]


@functools.cache
def shipped_tasks() -> Mapping[str, Task]:
    """The packaged tasks by name."""
    data = yaml.safe_load((Path(__file__).resolve().parent / "tasks.yaml").read_text(encoding="utf-8"))
    return {name: Task.model_validate(shape.expand(entry, Task)) for name, entry in data.items()}


def expand_tasks(raw: dict[str, Any]) -> list[Problem]:
    """Write out `tasks` of all stages and suites in `raw`, in place; returns what is wrong with them."""
    problems: list[Problem] = []
    for at, node, held_out in _nodes(raw):
        uses = node.pop("tasks")
        found = _named((*at, "tasks"), uses, problems)
        prompts, rewards = _written(found, held_out)
        node["prompts"] = [*_as_list(node.get("prompts")), *prompts]
        node["rewards"] = [*_as_list(node.get("rewards")), *rewards]
    return problems


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else []


def _nodes(raw: Mapping[str, Any]) -> Iterator[tuple[Path_, dict[str, Any], bool]]:
    """Each mapping with `tasks`, its place, and whether it evaluates."""
    stages = raw.get("stages")
    places: list[tuple[Path_, Any]] = [(("evaluate", "suites"), shape.child(raw.get("evaluate"), "suites"))]
    for name, spec in stages.items() if isinstance(stages, dict) else ():
        if isinstance(spec, dict) and spec.get("kind") == "grpo" and "tasks" in spec:
            yield ("stages", name), spec, False
        places.append((("stages", name, "suites"), shape.child(spec, "suites")))
    for at, suites in places:
        for index, suite in enumerate(suites if isinstance(suites, list) else ()):
            if isinstance(suite, dict) and "tasks" in suite:
                yield (*at, index), suite, True


def _named(at: Path_, uses: Any, problems: list[Problem]) -> list[dict[str, Any]]:
    """Whole tasks: {name, prompts, rewards, weight, n}, each name once."""
    shipped, found = shipped_tasks(), {}
    for index, use in enumerate(uses if isinstance(uses, list) else [uses]):
        name = use.get("use") if isinstance(use, dict) else None
        if not isinstance(use, dict) or set(use) - {"use", "name", "prompts", "rewards", "weight", "n"}:
            what = f"a task is a name, or has the keys use, name, prompts, rewards, weight, n; this is {str(use)[:80]}"
            problems.append(Problem(path=(*at, index), what=what))
        elif name is None and not (use.get("name") and use.get("prompts") and use.get("rewards")):
            what = "a task of your own needs name, prompts and rewards; one of the package is `use: NAME`"
            problems.append(Problem(path=(*at, index), what=what))
        elif name is not None and name != ALL and name not in shipped:
            what = f"no task {name!r}; {closest(str(name), (*shipped, ALL))}"
            problems.append(Problem(path=(*at, index), what=what))
        else:
            for task in _whole(use):
                found[task["name"]] = task
    return list(found.values())


def _whole(use: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    if use.get("use") is None:
        yield shape.expand(dict(use), _OwnTask)
        return
    shipped = shipped_tasks()
    for name in shipped if use["use"] == ALL else (use["use"],):
        written = shipped[name].model_dump(mode="json", by_alias=True, exclude_unset=True)
        yield {"prompts": written["prompts"], "rewards": written["rewards"], **use, "name": use.get("name", name)}


class _OwnTask(Strict):
    """The short forms that a task may use: `prompts: file.jsonl`, `rewards: [math]`."""

    name: str
    prompts: PromptSource
    rewards: tuple[RewardUse, ...]
    weight: float = 1.0
    n: int | None = None


def _written(tasks: list[dict[str, Any]], held_out: bool) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    prompts: list[dict[str, Any]] = []
    rewards: list[dict[str, Any]] = []
    for task in tasks:
        source = {**task["prompts"], "task": task["name"]}
        if str(source.get("from")).startswith("builtin:") and held_out:
            source["split"] = "heldout"
        if held_out or "n" in task:
            source["n"] = task.get("n") or HELD_OUT
        if "weight" in task:
            source["weight"] = task["weight"]
        prompts.append(source)
        for reward in task["rewards"]:
            _add(rewards, reward, task["name"])
    return prompts, rewards


def _add(rewards: list[dict[str, Any]], reward: dict[str, Any], task: str) -> None:
    """The reward for one task more: with one that is alike, or by itself."""
    when = dict(reward.get("when", {}))
    for other in rewards:
        others = dict(other["when"])
        names = others.pop("task")
        if {**other, "when": others} == {**reward, "when": when}:
            other["when"] = {**others, "task": [*names, task]}
            return
    rewards.append({**reward, "when": {**when, "task": [task]}})
