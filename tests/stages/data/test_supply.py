"""Prompts for RL: the same after a resume, easy and hard ones less often."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from posttrain.configs.schema import Difficulty
from posttrain.stages.data.supply import PromptSupply
from posttrain.types import Prompt

ROWS = [Prompt(id=f"q{i}", messages=()) for i in range(20)]


def ids(prompts: list[Prompt]) -> list[str]:
    return [p.id for p in prompts]


def test_every_row_comes_once_an_epoch_whatever_the_portions() -> None:
    supply = PromptSupply([ROWS], [1.0], seed=1)
    taken = [*ids(supply.take(3)), *ids(supply.take(10)), *ids(supply.take(7)), *ids(supply.take(20))]
    assert Counter(taken[:20]) == Counter(taken[20:]) == Counter(p.id for p in ROWS)
    assert taken[:20] != taken[20:]


def test_sources_come_by_their_weights() -> None:
    other = [Prompt(id=f"r{i}", messages=()) for i in range(20)]
    taken = ids(PromptSupply([ROWS, other], [3.0, 1.0], seed=0).take(40))
    assert Counter(name[0] for name in taken) == {"q": 30, "r": 10}


@pytest.mark.parametrize("rule", [None, Difficulty(keep=0.3)])
def test_a_restored_supply_goes_on_the_same(rule: Difficulty | None) -> None:
    def run(supply: PromptSupply, rounds: int) -> list[str]:
        taken = []
        for _ in range(rounds):
            for prompt in supply.take(5):
                taken.append(prompt.id)
                supply.saw(prompt.id, 1.0 if int(prompt.id[1:]) % 3 else 0.5)
        return taken

    whole = run(PromptSupply([ROWS], [1.0], seed=4, difficulty=rule), 12)
    first = PromptSupply([ROWS], [1.0], seed=4, difficulty=rule)
    head = run(first, 5)
    second = PromptSupply([ROWS], [1.0], seed=4, difficulty=rule)
    second.restore(json.loads(json.dumps(first.state)))
    assert head + run(second, 7) == whole


def test_mastered_and_hopeless_prompts_are_asked_less_and_not_forgotten() -> None:
    supply = PromptSupply([ROWS], [1.0], seed=0, difficulty=Difficulty(easy=0.9, hard=0.0, keep=0.25))
    for i in range(20):
        supply.saw(f"q{i}", {0: 1.0, 1: 0.0}.get(i % 4, 0.5))
    count = Counter(ids(supply.take(2000)))
    middle = [count[f"q{i}"] for i in range(20) if i % 4 > 1]
    others = [count[f"q{i}"] for i in range(20) if i % 4 < 2]
    assert min(others) > 0
    assert sum(others) / len(others) == pytest.approx(0.25 * sum(middle) / len(middle), rel=0.25)


def test_a_pool_of_easy_prompts_still_gives_prompts() -> None:
    supply = PromptSupply([ROWS], [1.0], seed=0, difficulty=Difficulty(keep=1e-9))
    for prompt in ROWS:
        supply.saw(prompt.id, 1.0)
    assert len(supply.take(4)) == 4


def test_what_nobody_could_judge_changes_nothing() -> None:
    supply = PromptSupply([ROWS], [1.0], seed=0, difficulty=Difficulty())
    supply.saw("q1", None)
    assert supply.state["pass_rates"] == {}
