"""A reward that its own gold doesn't satisfy is refused before anything starts."""

from pathlib import Path
from typing import Any

import pytest

from posttrain.configs.schema import RewardUse
from posttrain.errors import DataError
from posttrain.rewards.mixture.gold import ROWS, check_gold
from posttrain.rewards.mixture.gold_answers import MAKERS
from posttrain.types import Prompt


def prompt(number: int = 0, **columns: Any) -> Prompt:
    return Prompt(id=f"p{number}", messages=({"role": "user", "content": "?"},), columns=columns)


def use(name: str, **fields: Any) -> RewardUse:
    return RewardUse(use=name, **fields)


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("math", {"answer": "1/2"}),
        ("exact", {"answer": "Paris"}),
        ("multiple_choice", {"answer": "C"}),
        ("contains", {"keywords": ["red", "blue"]}),
        ("chrf", {"reference": ["Guten Morgen", "Moin"]}),
    ],
)
def test_gold_made_of_columns_scores_in_full(name: str, columns: dict[str, Any], tmp_path: Path) -> None:
    assert name in MAKERS
    assert check_gold([use(name)], [prompt(**columns)], tmp_path) == 1


def test_a_column_that_is_mapped_wrongly_is_found(tmp_path: Path) -> None:
    rows = [prompt(1, answer="A"), prompt(2, answer="the first one")]
    with pytest.raises(DataError, match=r"multiple_choice.*should be the letter of a choice") as error:
        check_gold([use("multiple_choice")], rows, tmp_path)
    assert error.value.where == "p2"


def test_a_column_gold_is_tried_by_every_reward_that_applies(tmp_path: Path) -> None:
    rows = [prompt(answer="4", gold="<think>\n2+2\n</think>\n\n\\boxed{4}")]
    assert check_gold([use("math"), use("format"), use("contains", when={"answer": "5"})], rows, tmp_path) == 2
    with pytest.raises(DataError, match=r"'format'.*scores 0, not 1"):
        check_gold([use("format")], [prompt(gold="4")], tmp_path)


def test_a_function_proves_itself_on_a_column_gold(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def short(completions, **c):\n    return [float(len(x[0]['content']) < 5) for x in completions]\n"
    )
    rows = [prompt(gold="ok")]
    assert check_gold([use("mine.py:short")], rows, tmp_path) == 1
    with pytest.raises(DataError, match=r"mine.py:short.*scores 0"):
        check_gold([use("mine.py:short")], [prompt(gold="too long an answer")], tmp_path)


def test_a_reward_that_can_not_judge_gold_is_told_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def broken(completions, **c):\n    raise KeyError('level')\n")
    with pytest.raises(DataError, match=r"couldn't judge.*KeyError: 'level'"):
        check_gold([use("mine.py:broken")], [prompt(gold="ok")], tmp_path)


def test_the_first_rows_are_tried_and_no_more(tmp_path: Path) -> None:
    rows = [prompt(i, answer=str(i)) for i in range(3 * ROWS)]
    assert check_gold([use("math")], rows, tmp_path) == ROWS


def test_what_has_no_gold_is_not_tried(tmp_path: Path) -> None:
    assert check_gold([use("length_target"), use("code")], [prompt(target_words=5, tests=["assert 1"])], tmp_path) == 0
