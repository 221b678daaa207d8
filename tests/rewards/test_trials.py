"""A recipe's own functions are called before a run starts; where all that was scored failed, few rows are enough."""

from __future__ import annotations

from pathlib import Path

import pytest

from posttrain.configs.schema import RewardUse
from posttrain.errors import DataError, RecipeError, RewardError
from posttrain.rewards.mixture.gold import PLAIN, _completion, check_functions
from posttrain.rewards.mixture.mix import ALL_FAILED, Scorer
from posttrain.types import Prompt

FUNCTIONS = """
def plain(prompts, completions, **columns):
    return [float(len(c[-1]["content"])) for c in completions]

def judged(data_source, solution_str, ground_truth, extra_info=None):
    return float(ground_truth in solution_str)

def nothing(prompts, completions, **columns):
    return [None for _ in completions]

def tokens(prompts, completions, completion_ids, **columns):
    return [1 / len(ids) for ids in completion_ids]

def group(prompts, completions, **columns):
    assert len(completions) == 4 and all(prompt == prompts[0] for prompt in prompts)
    return [float(len(c[-1]["content"])) for c in completions]

def strict(prompts, completions, **columns):
    return [float(c[-1]["content"].split("answer:")[1]) for c in completions]

def one(prompts, completions, **columns):
    return 1.0

def nan(prompts, completions, **columns):
    return [float("nan") for _ in completions]

class Scale:
    def __call__(self, prompts, completions, **columns):
        return [1.0 for _ in completions]

number = 3
"""
PROMPTS = [
    Prompt(id=f"r.jsonl:{i}", messages=({"role": "user", "content": "1+1?"},), columns={"answer": "2"})
    for i in range(1, 7)
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "r.py").write_text(FUNCTIONS)
    return tmp_path


def use(name: str) -> RewardUse:
    return RewardUse.model_validate({"use": f"r.py:{name}"})


@pytest.mark.parametrize("name", ["plain", "judged", "nothing", "tokens", "group"])
def test_a_function_that_gives_a_number_or_none_for_any_answer_may_start(folder: Path, name: str) -> None:
    check_functions([use(name)], PROMPTS, folder, 4)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("strict", r"IndexError: list index out of range \(r\.py:19\)"),
        ("one", r"a list with one number a completion, this is 1\.0"),
        ("nan", "no finite number"),
        ("Scale", "TypeError"),
    ],
)
def test_one_that_fails_on_an_answer_of_no_worth_is_refused_with_the_row_and_its_own_line(
    folder: Path, name: str, why: str
) -> None:
    with pytest.raises(DataError, match=why) as error:
        check_functions([use(name)], PROMPTS, folder, 4)
    assert error.value.where == "row 1 (r.jsonl:1)"


def test_what_can_not_be_called_is_refused(folder: Path) -> None:
    with pytest.raises(RecipeError, match=r"r\.py:number"):
        check_functions([use("number")], PROMPTS, folder, 4)


def test_a_function_is_tried_on_rows_that_it_applies_to(folder: Path) -> None:
    elsewhere = use("strict").model_copy(update={"when": {"task": "other"}})
    check_functions([elsewhere], PROMPTS, folder, 4)


@pytest.mark.parametrize("prompts", [ALL_FAILED - 1, ALL_FAILED])
def test_few_prompts_that_all_fail_stop_a_run(folder: Path, prompts: int) -> None:
    """A prompt's completions fail together where its row is bad: they count as one."""
    items = [(prompt, _completion(prompt, PLAIN[0])) for prompt in PROMPTS[:prompts] for _ in range(4)]
    with Scorer([use("strict")], recipe_dir=folder) as scorer:
        if prompts < ALL_FAILED:
            assert all(score.status == "infra_error" for score in scorer.score(items))
        else:
            with pytest.raises(RewardError, match="100% of the last 16 completions") as error:
                scorer.score(items)
            assert "list index out of range" in str(error.value)
