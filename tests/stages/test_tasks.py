"""The package's tasks: each has prompts, is paid in full for its gold, and not for what looks like it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from posttrain.configs.load import load_recipe, recipe_from_data
from posttrain.configs.schema import Grpo, PromptSource, RewardUse
from posttrain.configs.tasks import shipped_tasks
from posttrain.errors import RecipeError
from posttrain.rewards.mixture.mix import Scorer
from posttrain.sandbox.pool import LocalJudgePool
from posttrain.stages.data.load import load_prompts
from posttrain.stages.models.locations import Locations
from posttrain.types import Completion, Prompt, Score

GROUPS = {"instruction following", "format", "preference", "agent", "specialised"}
ROWS = 12
HERE = Path(__file__).parent


def rows_of(name: str, split: str = "train") -> list[Prompt]:
    source = shipped_tasks()[name].prompts.model_copy(update={"n": ROWS, "task": name, "split": split})
    return load_prompts([source], locations=Locations(recipe_dir=HERE), seed=5)[0]


def completion(prompt: Prompt, text: str) -> Completion:
    ids = np.arange(20)
    return Completion(
        prompt_id=prompt.id, index=0, prompt_ids=ids[:0], token_ids=ids, text=text, sources=np.zeros(20, np.int8),
        logprobs=np.zeros(20, np.float32), versions=np.zeros(20, np.int32), finish_reason="stop",
    )  # fmt: skip


def judged(name: str, prompts: list[Prompt], texts: list[str]) -> list[Score]:
    uses = shipped_tasks()[name].rewards
    judge = LocalJudgePool() if {use.use for use in uses} & {"code", "code_stdio"} else None
    try:
        with Scorer(uses, recipe_dir=HERE, judge=judge) as scorer:
            return scorer.score([(p, completion(p, t)) for p, t in zip(prompts, texts, strict=True)])
    finally:
        if judge is not None:
            judge.close()


def best(name: str) -> float:
    """What a completion can earn: the weights of the rewards that pay, penalties aside."""
    uses = shipped_tasks()[name].rewards
    return sum(use.weight for use in uses if not use.gate and use.use not in ("overlong", "repetition"))


def ideal(name: str, prompt: Prompt) -> tuple[str, str]:
    """Gold and an adversarial completion of a row that a program had to write."""
    if name == "mode_following":
        asked = str(prompt.messages[-1]["content"])
        flags = [str(m["content"]) for m in prompt.messages if m["role"] == "user" and "/" in str(m["content"])]
        thinks = not flags or "/think" in flags[-1]
        forms = ("<think>\nlet me see\n</think>\n\n4", "<think>\n\n</think>\n\n4")
        assert asked
        return forms if thinks else (forms[1], forms[0])
    gold = prompt.columns.get("gold")
    if gold is None:
        gold = "<think>\nAs told.\n</think>\n\n" + obedient(prompt)
    return gold, prompt.columns["adversarial"]


def obedient(prompt: Prompt) -> str:
    """An answer by the writer that the tests of `instructions` have."""
    spec = importlib.util.spec_from_file_location("writer", HERE.parent / "rewards" / "test_instruction_prompts.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    names, arguments = prompt.columns["instruction_id_list"], prompt.columns["kwargs"]
    return module.answer(dict(zip(names, arguments, strict=True)))


def test_there_are_over_twenty_in_the_five_groups_of_the_report() -> None:
    tasks = shipped_tasks()
    assert len(tasks) > 20
    assert {task.group for task in tasks.values()} == GROUPS


@pytest.mark.parametrize("name", sorted(shipped_tasks()))
def test_gold_is_paid_in_full_and_what_looks_like_it_is_not(name: str) -> None:
    prompts = rows_of(name)
    pairs = [ideal(name, prompt) for prompt in prompts]
    scores = judged(name, prompts, [gold for gold, _ in pairs])
    assert [(s.status, s.value) for s in scores] == [("ok", pytest.approx(best(name)))] * len(prompts)
    worse = judged(name, prompts, [adversarial for _, adversarial in pairs])
    assert all(s.value is not None and s.value < best(name) - 0.01 for s in worse)


@pytest.mark.parametrize("name", sorted(shipped_tasks()))
def test_held_out_rows_are_others(name: str) -> None:
    trained = {str(p.columns.get("key")) for p in rows_of(name)}
    assert not trained & {str(p.columns.get("key")) for p in rows_of(name, "heldout")}


# ---------------------------------------------------------------- in a recipe


def recipe(tasks: Any, **stage: Any) -> dict[str, Any]:
    spec = {"kind": "grpo", "model": "base", "tasks": tasks, **stage}
    return {"name": "t", "base": "builtin:tiny", "stages": {"rl": spec}}


def expanded(tasks: Any, **stage: Any) -> Grpo:
    loaded = recipe_from_data(recipe(tasks, **stage), HERE, "test")
    spec = loaded.recipe.stages["rl"]
    assert isinstance(spec, Grpo)
    return spec


def test_a_task_becomes_prompts_and_rewards_for_them() -> None:
    spec = expanded(["record", {"use": "iso_date", "weight": 2, "n": 7}])
    assert [(p.source, p.task, p.weight, p.n) for p in spec.prompts] == [
        ("builtin:task-record", "record", 1.0, None), ("builtin:task-iso-date", "iso_date", 2.0, 7)
    ]  # fmt: skip
    assert [(u.use, u.when, u.gate) for u in spec.rewards] == [
        ("json_schema", {"task": ["record"]}, False), ("exact", {"task": ["iso_date"]}, False),
        ("regex", {"task": ["iso_date"]}, True),
    ]  # fmt: skip


def test_a_reward_that_tasks_use_alike_stands_once() -> None:
    spec = expanded(["commands", "list", "think_form"])
    assert [(u.use, u.when["task"]) for u in spec.rewards if u.use == "exact"] == [("exact", ["commands", "list"])]


def test_tasks_stand_beside_prompts_and_rewards() -> None:
    spec = expanded("record", prompts="builtin:arithmetic", rewards=[{"use": "math", "when": {"task": "math"}}])
    assert [p.source for p in spec.prompts] == ["builtin:arithmetic", "builtin:task-record"]
    assert spec.rewards[0] == RewardUse(use="math", when={"task": "math"})


def test_all_is_all_and_a_name_said_again_changes_its_weight() -> None:
    spec = expanded(["all", {"use": "length", "weight": 3}])
    assert [p.task for p in spec.prompts] == list(shipped_tasks())
    assert {p.task: p.weight for p in spec.prompts if p.weight != 1} == {"length": 3.0}


def test_a_task_of_ones_own() -> None:
    own = {"name": "mine", "prompts": "builtin:arithmetic", "rewards": ["math"], "weight": 0.5}
    spec = expanded([own])
    assert spec.prompts == (PromptSource.model_validate({"from": "builtin:arithmetic", "task": "mine", "weight": 0.5}),)
    assert spec.rewards == (RewardUse(use="math", when={"task": ["mine"]}),)


@pytest.mark.parametrize(
    ("tasks", "says"),
    [
        (["recrod"], r"stages\.rl\.tasks\.0: no task 'recrod'.*record"),
        ([{"name": "mine"}], r"needs name, prompts and rewards"),
        ([{"use": "record", "wieght": 2}], r"a task is a name, or has the keys"),
    ],
)
def test_a_wrong_task_is_refused_with_its_place(tasks: Any, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        expanded(tasks)


def test_suites_ask_held_out_rows() -> None:
    suite = {"name": "s", "tasks": ["record", {"use": "list", "n": 9}]}
    data = {**recipe(["record"]), "evaluate": {"suites": [suite], "after": ["rl"]}}
    (found,) = recipe_from_data(data, HERE, "test").recipe.evaluate.suites
    assert [(p.split, p.n, p.task) for p in found.prompts] == [("heldout", 20, "record"), ("heldout", 9, "list")]


def test_what_is_written_down_loads_to_the_same() -> None:
    first = load_recipe("general-rl-tiny")
    again = recipe_from_data(yaml.safe_load(yaml.safe_dump(dict(first.resolved))), HERE, "test")
    assert again.recipe == first.recipe


def test_generators_are_pure_functions_of_their_seed() -> None:
    assert [p.messages for p in rows_of("constraints")] == [p.messages for p in rows_of("constraints")]
