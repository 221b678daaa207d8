"""docs/reference/rewards.md and tasks.md, from the registries: `python -m posttrain.rewards.catalogue docs/reference`.

The cases that it lists are those that the tests run, so that the document can't say what isn't so.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args, get_origin

from posttrain.configs.schema import RewardUse
from posttrain.configs.tasks import shipped_tasks
from posttrain.rewards.base import BUILTINS
from posttrain.rewards.contract import BuiltinReward, Case, parameters

_HEAD = """# Rewards

Written by `python -m posttrain.rewards.catalogue docs/reference` from the registry; a test holds it to that.

A recipe names a reward by `use:`, with `params`, `weight`, `when` and `gate`; `posttrain rewards score NAME` tries one
on JSON lines. What a reward *sees* is the answer behind `</think>` (an open think block has none), or the whole
completion; `sees:` in the recipe changes it. Columns in italics are read where a row has them. Nothing that failed is
scored 0: a row that can't be judged is an infra error, and one that a reward has no say in isn't counted for it. But a
completion that alone can't be judged, while its row can, scores 0. Rewards run in confined rooms:
see [the sandbox](../guides/sandbox.md#verifiers).

Every reward has a *gold case*, which it pays in full, and an *adversarial case*, written to be paid without being
right, which it doesn't; both are run through the real mixture by `tests/rewards/test_cases.py`.
"""
_NEEDS = {
    "nothing": "",
    "worker": "Runs in a fresh confined room per completion; see [the sandbox](../guides/sandbox.md#verifiers).",
    "judge": "Runs in the sandbox.",
    "math": "Compares by algebra in a fresh confined room; see [the sandbox](../guides/sandbox.md#verifiers).",
    "chat": "Asks the language model that `judge:` names; see [LLM judges](../guides/judges.md).",
    "reward_model": "Asks the sequence classifier that `model:` names; see [LLM judges](../guides/judges.md).",
}


def render() -> str:
    """The document."""
    rows = [f"| {' | '.join(cells)} |" for cells in _table()]
    return "\n".join([_HEAD, *rows, "", *(line for name in BUILTINS for line in _section(name, BUILTINS[name]))])


_TASKS = """# Tasks

Written by `python -m posttrain.rewards.catalogue docs/reference` from `configs/tasks.yaml`; a test holds it to that.

In a `grpo` stage or a suite: `tasks: all`, `tasks: [keywords, {use: record, weight: 2, n: 500}]`, or one of your own:
`{name: mine, prompts: mine.jsonl, rewards: [math]}`. A suite asks held-out rows. Each row of a task carries `gold`, a
completion that it pays in full, and `adversarial`, one that only looks like it; `tests/stages/test_tasks.py` runs both.
The Qwen3 report trains on over 20 tasks and lists none (4.4), so these are ours, in its five groups; their prompts are
made by programs, so that nothing is downloaded.

| task | group | asks | prompts | rewards |
| --- | --- | --- | --- | --- |
"""


def render_tasks() -> str:
    """The document on tasks."""
    rows = (
        [f"`{name}`", task.group, task.about, f"`{task.prompts.source}`", ", ".join(map(_use, task.rewards))]
        for name, task in shipped_tasks().items()
    )
    return _TASKS + "".join(f"| {' | '.join(map(_cell, row))} |\n" for row in rows)


def _use(use: RewardUse) -> str:
    params = ", ".join(f"{k}: {v}" for k, v in use.params.items())
    notes = [*(["gate"] if use.gate else []), *([f"weight {use.weight:g}"] if use.weight != 1 else []), params]
    said = ", ".join(note for note in notes if note)
    return f"[`{use.use}`](rewards.md#{use.use})" + (f" ({said})" if said else "")


def _table() -> Iterator[list[str]]:
    yield ["name", "kind", "sees", "columns", "parameters", "full score for"]
    yield ["---"] * 6
    for name, reward in BUILTINS.items():
        columns = [f"`{c}`" for c in reward.columns] + [f"*`{c}`*" for c in reward.optional]
        link = f"[`{name}`](#{name})"
        yield [link, reward.kind, reward.sees, ", ".join(columns), ", ".join(_params(reward)), _cell(reward.doc)]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _params(reward: BuiltinReward) -> list[str]:
    return [_param(name, parameter) for name, parameter in parameters(reward).items()]


def _param(name: str, parameter: inspect.Parameter) -> str:
    if parameter.default is inspect.Parameter.empty:
        return f"`{name}`"
    options = get_args(parameter.annotation) if get_origin(parameter.annotation) is Literal else ()
    others = "".join(f" or `{_json(option)}`" for option in options if option != parameter.default)
    return f"`{name}: {_json(parameter.default)}`{others}"


def _section(name: str, reward: BuiltinReward) -> Iterator[str]:
    yield f"## {name}\n"
    yield inspect.getdoc(reward.function) or reward.doc
    if needs := _NEEDS.get(reward.needs, ""):
        yield f"\n{needs}"
    by = "" if reward.kind == "rule" else " by a stand-in for the model"
    yield f"\nGold case, scored {reward.full:g}{by}:\n"
    yield from _case(reward.gold)
    yield f"\nAdversarial case, scored less than {reward.full:g}:\n"
    yield from _case(reward.adversarial)
    yield ""


def _case(case: Case) -> Iterator[str]:
    """As a line of `posttrain rewards score`, its parameters aside."""
    prompt = {"prompt": case.prompt} if isinstance(case.prompt, str) else {"messages": list(case.prompt)}
    yield "```json"
    yield _json({**({} if case.prompt == "?" else prompt), **case.columns, "completion": case.completion})
    yield "```"
    if case.params:
        yield f"\nwith `params: {_json(dict(case.params))}`"


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    (folder / "rewards.md").write_text(render(), encoding="utf-8")
    (folder / "tasks.md").write_text(render_tasks(), encoding="utf-8")
