"""Evaluation's numbers against slow references, its settings, and what it does with a verdict that is missing."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from posttrain.configs.schema import PromptSource, Suite
from posttrain.stages.data.load import load_prompts
from posttrain.stages.evaluate import suite_params
from posttrain.stages.measures import pass_at, summary


def by_enumeration(row: np.ndarray, k: int) -> float:
    """The share of subsets of k samples of which any passes."""
    subsets = list(itertools.combinations(row, k))
    return sum(any(value >= 1 for value in subset) for subset in subsets) / len(subsets)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 7, 8])
def test_pass_at_k_is_what_enumerating_all_subsets_gives(k: int) -> None:
    rng = np.random.default_rng(k)
    values = (rng.random((30, 8)) < rng.random((30, 1))).astype(float)
    np.testing.assert_allclose(pass_at(values, k)[:, 0], [by_enumeration(row, k) for row in values], atol=1e-12)


def test_pass_at_one_is_the_mean() -> None:
    values = np.array([[1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 1.0]])
    np.testing.assert_allclose(pass_at(values, 1)[:, 0], values.mean(1))


def test_pass_at_k_of_half_a_point_is_no_pass() -> None:
    assert pass_at(np.array([[0.5, 0.9]]), 2) == [[0.0]]


def test_a_missing_verdict_is_no_zero_and_favours_no_question() -> None:
    values = np.array([[1.0, np.nan, 0.0], [0.0, np.nan, np.nan], [1.0, np.nan, np.nan]])
    np.testing.assert_array_equal(pass_at(values, 2), [[1.0], [np.nan], [np.nan]])
    assert summary("m", "accuracy", values)["value"] == pytest.approx((0.5 + 0 + 1) / 3)
    assert summary("m", "no_verdict", np.isnan(values))["value"] == pytest.approx(5 / 9)


def test_large_counts_do_not_overflow() -> None:
    values = np.zeros((1, 4096))
    values[0, 0] = 1
    assert pass_at(values, 64)[0, 0] == pytest.approx(64 / 4096)


@pytest.mark.parametrize(
    ("mode", "sampling", "expected"),
    [
        ("think", {}, (0.6, 0.95, 20)),
        ("default", {"max_tokens": 9}, (0.6, 0.95, 20)),
        ("no_think", {}, (0.7, 0.8, 20)),
        ("closed", {}, (0.7, 0.8, 20)),
        ("no_think", {"top_p": 0.5}, (0.7, 0.5, 20)),
        ("think", {"temperature": 1.0}, (1.0, 1.0, 0)),
        ("no_think", {"temperature": 0.0, "top_k": 5}, (0.0, 1.0, 5)),
    ],
)
def test_each_mode_is_asked_with_the_reports_settings(
    mode: str, sampling: dict[str, float], expected: tuple[float, float, int]
) -> None:
    suite = Suite.model_validate({"name": "s", "prompts": "x.jsonl", "sampling": sampling})
    params = suite_params(suite, mode)
    assert (params.temperature, params.top_p, params.top_k) == expected


def test_more_passes_than_samples_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"pass@8 needs .* set `k` to 16 or more"):
        Suite.model_validate({"name": "s", "prompts": "x.jsonl", "k": 4, "pass_at": [1, 8, 16]})


def test_two_questions_of_the_same_text_stay_two(tmp_path: Path) -> None:
    rows = [{"prompt": "2+2?", "answer": "4"}, {"prompt": "2+2?", "answer": "four"}, {"id": "x", "prompt": "2+2?"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = PromptSource.model_validate({"from": "a.jsonl"})
    (prompts,) = load_prompts((source,), recipe_dir=tmp_path, inputs={}, seed=1)
    assert len({prompt.id for prompt in prompts}) == 3
    again = load_prompts((source,), recipe_dir=tmp_path, inputs={}, seed=1)[0]
    assert [p.id for p in prompts] == [p.id for p in again]  # what a paired comparison rests on
