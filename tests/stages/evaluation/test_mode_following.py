"""Mode following over dialogues: each variant catches the policy that it was made for, and a right one passes all."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posttrain.configs.load import load_recipe
from posttrain.configs.schema import PromptSource
from posttrain.errors import DataError
from posttrain.flags import flag_in_force
from posttrain.pipelines.planning.plan import make_plan
from posttrain.pipelines.preflight.data_checks import check_data
from posttrain.stages.data.load import load_prompts
from posttrain.stages.evaluation.mode_following import follow, follow_rows
from posttrain.stages.generators.dialogues import VARIANTS
from posttrain.stages.models.locations import Locations
from posttrain.stages.sample import unsampled_group
from posttrain.types import Group, Prompt

from ..stand_ins import write

THOUGHT, EMPTY, PLAIN = "<think>\nhm\n</think>\n\n4", "<think>\n\n</think>\n\n4", "4"


def dialogues(*variants: str, n: int = 60) -> list[Prompt]:
    params = {"variants": variants or VARIANTS}
    source = PromptSource.model_validate({"from": "builtin:dialogues", "split": "heldout", "n": n, "params": params})
    return load_prompts([source], locations=Locations(recipe_dir=Path()), seed=3)[0]


def obedient(prompt: Prompt) -> str:
    if prompt.mode == "closed":
        return PLAIN
    return EMPTY if flag_in_force(prompt.messages) == "no_think" else THOUGHT


def reads_any_flag(prompt: Prompt) -> str:
    if prompt.mode == "closed":
        return PLAIN
    flags = re.findall(r"/(?:no_)?think", " ".join(m["content"] for m in prompt.messages))
    return EMPTY if flags and flags[-1] == "/no_think" else THOUGHT


def overlooks_the_system(prompt: Prompt) -> str:
    users = tuple(m for m in prompt.messages if m["role"] == "user")
    return obedient(Prompt(id="", messages=users, mode=prompt.mode))


def thinks_against_the_hard_switch(prompt: Prompt) -> str:
    return THOUGHT if flag_in_force(prompt.messages) == "think" else obedient(prompt)


def turns(policy: Callable[[Prompt], str], prompts: Sequence[Prompt]) -> dict[str, float]:
    def ask(turn: int, mode: str, asked: Sequence[Prompt]) -> Iterator[Group]:
        assert all(prompt.mode == mode for prompt in asked)
        return (unsampled_group(prompt, policy(prompt)) for prompt in asked)

    passed, _ = follow(prompts, ask)
    return {row["mode"]: row["value"] for row in follow_rows(prompts, passed) if row["metric"] == "turns"}


def test_who_follows_flags_and_switches_passes_every_turn_of_every_variant() -> None:
    assert turns(obedient, dialogues()) == dict.fromkeys(("flags", *VARIANTS), 1.0)


@pytest.mark.parametrize(
    ("policy", "caught"),
    [(reads_any_flag, "quoted"), (overlooks_the_system, "system"), (thinks_against_the_hard_switch, "hard")],
)
def test_each_variant_catches_its_own_fault_and_no_other_does(policy: Callable[[Prompt], str], caught: str) -> None:
    found = turns(policy, dialogues())
    assert found.pop(caught) < 0.9
    assert found.pop("flags") < 1.0
    assert set(found.values()) == {1.0}


def test_one_variant_alone_has_no_rows_beside_the_whole() -> None:
    assert list(turns(obedient, dialogues("user"))) == ["flags"]


def test_dialogues_of_different_lengths_are_held_to_their_end() -> None:
    long, short = dialogues("user", n=2)
    for name in ("queries", "flags", "modes"):
        short.columns[name].pop()  # type: ignore[index]
    heard: list[tuple[int, int]] = []

    def ask(turn: int, mode: str, asked: Sequence[Prompt]) -> Iterator[Group]:
        heard.append((turn, len(asked)))
        return (unsampled_group(prompt, obedient(prompt)) for prompt in asked)

    passed, _ = follow([long, short], ask)
    assert heard == [(0, 2), (1, 2), (2, 1)]
    assert np.isnan(passed).tolist() == [[False] * 3, [False, False, True]]
    assert {row["value"] for row in follow_rows([long, short], passed) if row["metric"] == "dialogues"} == {1.0}


def test_the_history_has_the_answers_without_their_thinking() -> None:
    histories: list[list[Any]] = []

    def ask(turn: int, mode: str, asked: Sequence[Prompt]) -> Iterator[Group]:
        histories.extend(list(prompt.messages) for prompt in asked)
        return (unsampled_group(prompt, THOUGHT) for prompt in asked)

    follow(dialogues("user", n=1), ask)
    assert [m["content"] for m in histories[-1] if m["role"] == "assistant"] == ["4", "4"]


def test_the_variants_have_what_they_are_called_for() -> None:
    for prompt in dialogues():
        variant, queries = prompt.columns["variant"], " ".join(prompt.columns["queries"])
        assert ("think" in queries) == (variant == "quoted")
        assert bool(prompt.columns.get("system")) == (variant == "system")
        assert (prompt.mode == "closed") == (variant == "hard")


def test_a_variant_that_is_none_is_refused() -> None:
    with pytest.raises(DataError, match="`variants` are among user, system, quoted, hard, not"):
        dialogues("systm")


RECIPE = """
name: r
base: builtin:tiny
stages:
  table: {kind: evaluate, model: base, suites: [{name: m, measure: mode_following, prompts: rows.jsonl}]}
"""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, None),
        ({"modes": ["think", "think"]}, r"rows\.jsonl:1: modes\[1\] is 'think', .* asks for 'no_think'"),
        ({"queries": ["a", "`/think`"], "flags": ["/no_think", ""]}, r"modes\[0\] is 'think'"),
        ({"system": "/no_think", "flags": ["", ""]}, r"modes\[0\]"),
        ({"flags": ["", "no_think"]}, r"flags\[1\] is 'no_think'"),
        ({"modes": ["closed", "closed"]}, None),
    ],
)
def test_modes_that_disagree_with_the_flags_are_refused_before_anything_starts(
    tmp_path: Path, change: dict[str, Any], message: str | None
) -> None:
    row = {"queries": ["a", "b"], "flags": ["", "/no_think"], "modes": ["think", "no_think"], "prompt": "a"}
    write(tmp_path / "rows.jsonl", [{**row, **change}])
    (tmp_path / "r.yaml").write_text(RECIPE)
    loaded = load_recipe(str(tmp_path / "r.yaml"), ())
    plan = make_plan(loaded, tmp_path / "run")
    if message is None:
        assert check_data(loaded, plan).sources
        return
    with pytest.raises(DataError, match=message):
        check_data(loaded, plan)
