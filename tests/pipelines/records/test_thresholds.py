"""Thresholds: arithmetic over results, and nothing else."""

from __future__ import annotations

import pytest

from posttrain.errors import RecipeError
from posttrain.pipelines.records.thresholds import check_cells, judge, parse_check

RESULTS = {
    ("rl", "sums", "think", "accuracy"): 0.8,
    ("cold-start", "sums", "think", "accuracy"): 0.5,
    ("rl", "budget", "think", "accuracy@16"): 0.4,
    ("rl", "sums", "think", "accuracy/sum3"): 0.9,
}


@pytest.mark.parametrize(
    ("text", "passed"),
    [
        ("rl:sums:think:accuracy >= 0.8", True),
        ("rl:sums:think:accuracy > 0.8", False),
        ("rl:sums:think:accuracy - cold-start:sums:think:accuracy >= 0.29", True),
        ("2 * (rl:sums:think:accuracy - 0.5) / 2 <= 0.2", False),
        ("rl:budget:think:accuracy@16 < rl:sums:think:accuracy", True),
        ("rl:sums:think:accuracy/sum3 >= 0.9", True),
        ("min(rl:sums:think:accuracy, cold-start:sums:think:accuracy) >= 0.5", True),
        ("abs(-rl:sums:think:accuracy) < 1", True),
        ("rl:sums:think:accuracy / 0 > 1", False),
        ("rl:sums:think:unheard_of > 0", False),
        ("other:sums:think:accuracy > 0", None),
    ],
)
def test_judges(text: str, passed: bool | None) -> None:
    assert judge(parse_check(text), RESULTS).passed is passed


@pytest.mark.parametrize(
    "text",
    [
        "rl:sums:think:accuracy",
        "0 < rl:sums:think:accuracy < 1",
        "rl:sums:think:accuracy == 1",
        "__import__('os').system('x') > 0",
        "accuracy > 0",
        "cell_0 > 0",
        "rl:sums:think:accuracy ** 9 > 0",
        "[1][0] > 0",
        "'a' > 'b'",
        "abs() > 0",
        "True > 0",
        "(" * 5000 + "1 > 0",
    ],
)
def test_refuses_what_is_not_arithmetic(text: str) -> None:
    with pytest.raises(RecipeError, match="can't be checked"):
        parse_check(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("lr:sums:think:accuracy > 0", "stage 'lr' isn't evaluated; valid: rl"),
        ("rl:sms:think:accuracy > 0", "rl has no suite 'sms'; did you mean `sums`?"),
        ("rl:sums:thnk:accuracy > 0", "no mode 'thnk'; did you mean `think`?"),
        ("rl:sums:think:accurcy@8 > 0", "the metric 'accurcy@8'; did you mean `accuracy`?"),
    ],
)
def test_refuses_what_is_never_evaluated(text: str, says: str) -> None:
    with pytest.raises(RecipeError) as caught:
        check_cells(parse_check(text), {"rl": {"sums": ["think"]}})
    assert says in str(caught.value)
