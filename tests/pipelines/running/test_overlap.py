"""A run compares its suites with all it read and left."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from posttrain.configs.load import load_recipe
from posttrain.pipelines.planning.plan import make_plan
from posttrain.pipelines.records.results import OVERLAP
from posttrain.pipelines.running.overlap import measure_overlap
from posttrain.stages.curation.overlap import SuiteOverlap
from posttrain.stages.data.store import write_rows

RECIPE = """name: r
base: {base}
stages:
  more: {{kind: sample, model: base, prompts: a.jsonl}}
  rl: {{kind: grpo, model: base, prompts: [more, {{from: "builtin:arithmetic", {trained}}}], rewards: math}}
evaluate:
  suites:
    - {{name: sums, prompts: {{from: "builtin:arithmetic", {asked}}}}}
    - {{name: own, prompts: b.jsonl}}
  after: [rl]
"""


def measured(
    folder: Path, *, asked: str = "n: 30, split: heldout", trained: str = "n: 50", base: str = "Qwen/Qwen3-0.6B"
) -> dict[str, SuiteOverlap]:
    (folder / "r.yaml").write_text(RECIPE.format(asked=asked, trained=trained, base=base))
    for name in ("a", "b"):
        (folder / f"{name}.jsonl").write_text(json.dumps({"prompt": f"What is {name}?", "answer": "1"}) + "\n")
    loaded = load_recipe(folder / "r.yaml")
    return {suite.suite: suite for suite in measure_overlap(loaded, make_plan(loaded, folder / "run"))}


def test_splits_of_a_generator_share_nothing(tmp_path: Path) -> None:
    assert (found := measured(tmp_path)["sums"]).in_data == 0
    assert found.rows == 51
    assert found.in_corpus is None


def test_training_on_held_out_questions_is_found(tmp_path: Path) -> None:
    params = "n: 30, split: heldout, params: {terms: [2, 2]}"  # few enough that two seeds meet
    found = measured(tmp_path, asked=params, trained="n: 400, split: heldout, params: {terms: [2, 2]}")
    assert found["sums"].in_data > 0
    assert found["own"].in_data == 0


def test_a_question_that_a_stage_left_in_its_artifact_is_found(tmp_path: Path) -> None:
    write_rows(tmp_path / "run" / "more" / "artifact", [{"messages": [{"role": "user", "content": "what is B?"}]}])
    assert measured(tmp_path)["own"].in_data == 1


def test_the_corpus_of_a_packaged_base_is_compared(tmp_path: Path) -> None:
    assert measured(tmp_path, base="builtin:tiny")["sums"].documents > 10_000


def test_a_run_says_it_and_an_all_reused_one_compares_nothing(runner: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posttrain.pipelines.running.overlap.TINY", {})  # the corpus takes seconds
    assert runner.run() == 0
    line = "sums: 1000 questions, 0 in the run's data (6 rows compared)"
    assert line in runner.printed
    assert "Held-out questions" in (runner.run_dir / "report.html").read_text()
    os.utime(runner.run_dir / OVERLAP, (1, 1))
    assert runner.run() == 0
    assert line in runner.printed
    assert (runner.run_dir / OVERLAP).stat().st_mtime == 1
