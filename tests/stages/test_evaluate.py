"""Evaluation's numbers against slow references, its settings, and what it does with a verdict that is missing."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from posttrain.configs.schema import Evaluate, PromptSource, Suite
from posttrain.stages import evaluate
from posttrain.stages.data.load import load_prompts
from posttrain.stages.data.store import read_rows
from posttrain.stages.evaluate import suite_params
from posttrain.stages.evaluation.intervals import RESAMPLES, bootstrap_interval, difference_interval, pass_at, summary
from posttrain.stages.models.locations import Locations
from posttrain.types import Completion, Group, Prompt

from .stand_ins import Context, write


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
    (prompts,) = load_prompts((source,), locations=Locations(recipe_dir=tmp_path), seed=1)
    assert len({prompt.id for prompt in prompts}) == 3
    again = load_prompts((source,), locations=Locations(recipe_dir=tmp_path), seed=1)[0]
    assert [p.id for p in prompts] == [p.id for p in again]  # what a paired comparison rests on


# ---------------------------------------------------------------- intervals


def percentiles(draws: list[float]) -> tuple[float, float]:
    """The 2.5th and 97.5th, between neighbours by their distance."""
    draws = sorted(draws)

    def at(share: float) -> float:
        place = share * (len(draws) - 1)
        below = int(place)
        return draws[below] + (place - below) * (draws[min(below + 1, len(draws) - 1)] - draws[below])

    return at(0.025), at(0.975)


@pytest.mark.parametrize("questions", [1, 2, 17, 60])
def test_an_interval_is_a_written_out_bootstrap_over_questions(questions: int) -> None:
    means = np.random.default_rng(questions).random(questions)
    places = np.random.default_rng(0).integers(questions, size=(RESAMPLES, questions))
    draws = [sum(means[place] for place in drawn) / questions for drawn in places]
    assert bootstrap_interval(means) == pytest.approx(percentiles(draws), abs=1e-12)


def test_an_interval_of_two_question_sets_is_a_written_out_bootstrap_of_both() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.random(40), rng.random(25) / 2
    chance = random.Random(1)
    draws = [sum(chance.choices(b, k=25)) / 25 - sum(chance.choices(a, k=40)) / 40 for _ in range(20_000)]
    low, high = percentiles(draws)
    assert difference_interval(a, b) == pytest.approx((low, high), abs=0.05 * (high - low))


def test_an_interval_of_differences_covers_the_truth_and_is_narrower_in_pairs() -> None:
    rng = np.random.default_rng(7)
    covered, narrower = [], []
    for _ in range(200):
        hard = rng.random(50)  # what both models find hard
        a = (rng.random((50, 4)) < hard[:, None] * 0.6).mean(1)
        b = (rng.random((50, 4)) < hard[:, None] * 0.6 + 0.1).mean(1)
        low, high = bootstrap_interval(b - a)
        apart = difference_interval(a, b)
        covered.append(low <= 0.1 <= high)
        narrower.append(high - low < apart[1] - apart[0])
    assert 0.88 <= np.mean(covered) <= 0.99
    assert np.mean(narrower) > 0.9


def test_no_questions_have_no_interval() -> None:
    nothing = np.zeros(0)
    assert np.isnan([*bootstrap_interval(nothing), *difference_interval(nothing, np.ones(3))]).all()


# ---------------------------------------------------------------- a whole evaluation, but for the model


class Asking(Context):
    """Answers every question with the last character of its text."""

    environment = None

    def rollout(self) -> Asking:
        return self

    def free(self) -> None: ...

    def generate(self, prompts: Sequence[Prompt], n: int, params: Any, *, seed: int) -> Iterator[Group]:
        for prompt in reversed(prompts):  # engines hand on what is done first
            text = f"<think>\n\n</think>\n\n{str(prompt.messages[-1]['content'])[-1]}"
            completions = tuple(
                Completion(
                    prompt_id=prompt.id, index=i, prompt_ids=np.arange(3), token_ids=np.arange(4), text=text,
                    sources=np.zeros(4, np.int8), logprobs=np.zeros(4, np.float32), versions=np.zeros(4, np.int32),
                    finish_reason="stop",
                )
                for i in range(n)
            )  # fmt: skip
            yield Group(prompt=prompt, completions=completions)


GRADE = """
def grade(prompts, completions, answer, **columns):
    return [float(completion[-1]["content"].endswith(str(int(gold)))) for completion, gold in zip(completions, answer)]
"""


def evaluated(
    folder: Path, monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, Any]], **suite: Any
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The numbers by metric, and the completions, of a suite over `rows` that `grade` judges."""
    (folder / "mine.py").write_text(GRADE)
    write(folder / "questions.jsonl", rows)
    fields = {"name": "s", "prompts": "questions.jsonl", "rewards": ["mine.py:grade"], **suite}
    context: Any = Asking(
        folder, "eval", Evaluate.model_validate({"kind": "evaluate", "model": "x", "suites": [fields]}), 1
    )
    context.artifact_dir.mkdir()
    monkeypatch.setattr(evaluate, "load_policy", lambda context, model: (context, None))
    evaluate.run(context)
    table = json.loads((context.artifact_dir / "table.json").read_text())["rows"]
    return {row["metric"]: row for row in table}, read_rows(context.artifact_dir / "completions.parquet")


def test_a_grader_that_fails_is_counted_and_no_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"id": f"q{i}", "prompt": f"say {i}", "answer": "no number" if i < 3 else str(i)} for i in range(10)]
    found, kept = evaluated(tmp_path, monkeypatch, rows)
    assert (found["accuracy"]["value"], found["accuracy"]["n"]) == (1.0, 7)
    assert found["no_verdict"]["value"] == pytest.approx(0.3)
    failed = {row["prompt_id"] for row in kept if row["status"] == "infra_error"}
    assert failed == {"q0", "q1", "q2"}
    assert not [row for row in kept if row["prompt_id"] in failed and "score" in row]


def test_questions_of_one_text_are_judged_by_their_own_gold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"prompt": "say 4", "answer": gold} for gold in ("4", "5", "4", "6")]
    found, kept = evaluated(tmp_path, monkeypatch, rows, k=2)
    assert (found["accuracy"]["value"], found["accuracy"]["n"], found["pass@2"]["value"]) == (0.5, 4, 0.5)
    assert len({row["prompt_id"] for row in kept}) == 4
    assert {row["prompt"] for row in kept} == {"say 4"}
