"""`validation` of an SFT stage: the loss of rows that it doesn't learn."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from posttrain.configs.load import load_recipe
from posttrain.errors import DataError
from posttrain.pipelines.graph.dag import build_dag
from posttrain.pipelines.planning.plan import make_plan
from posttrain.pipelines.preflight.data_checks import check_data

RECIPE = """name: v
base: builtin:tiny
cluster: {learner: {threads: 1}}
stages:
  still: &sft
    kind: sft
    model: base
    data: rows.jsonl
    batch_size: 6
    steps: 2
    optimizer: {lr: 1.0e-12}
    validation: {data: rows.jsonl, every: 1}
  alone: {<<: *sft, validation: null, batch_size: 2, steps: 3, optimizer: {lr: 1.0e-3}}
  watched: {<<: *sft, validation: {data: others.jsonl, every: 2}, batch_size: 2, steps: 3, optimizer: {lr: 1.0e-3}}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    rows = [{"prompt": f"Say {'very ' * i}{i}.", "response": "x" * (3 * i + 1)} for i in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "others.jsonl").write_text(json.dumps({"prompt": "2+3?", "response": "5"}) + "\n")
    (tmp_path / "r.yaml").write_text(RECIPE)
    return tmp_path / "r.yaml"


def test_it_is_the_loss_of_its_rows_and_changes_nothing(run: Callable[[Path], tuple[int, str]], recipe: Path) -> None:
    code, said = run(recipe)
    assert code == 0, said
    lines = {
        stage: [json.loads(line) for line in (recipe.parent / "run" / stage / "metrics.jsonl").read_text().splitlines()]
        for stage in ("still", "alone", "watched")
    }
    for line in lines["still"]:  # of a model that stays as it is, on the rows of the step itself
        assert line["validation_loss"] == pytest.approx(line["loss"], rel=1e-5)
    assert [line["loss"] for line in lines["watched"]] == [line["loss"] for line in lines["alone"]]
    assert ["validation_loss" in line for line in lines["watched"]] == [False, True, True]
    assert lines["watched"][1]["validation_loss"] != lines["watched"][2]["validation_loss"]
    manifest = json.loads((recipe.parent / "run" / "watched" / "artifact" / "manifest.json").read_text())
    assert manifest["metrics"]["validation_loss"] == lines["watched"][2]["validation_loss"]


def test_its_rows_are_checked_before_the_run(recipe: Path) -> None:
    with (recipe.parent / "others.jsonl").open("a") as file:
        file.write(json.dumps({"prompt": "2+3?"}) + "\n")
    loaded = load_recipe(recipe)
    with pytest.raises(DataError, match=r"others\.jsonl:2: a training row needs"):
        check_data(loaded, make_plan(loaded, recipe.parent / "run"))


def test_a_stage_may_give_them(recipe: Path) -> None:
    text = RECIPE.replace("stages:\n", "stages:\n  made: {kind: sample, model: base, prompts: builtin:arithmetic}\n")
    recipe.write_text(text.replace("data: others.jsonl", "data: made"))
    assert "made" in build_dag(load_recipe(recipe))["watched"].inputs


def test_a_recipe_without_says_nothing_of_it(recipe: Path) -> None:
    stages = load_recipe(recipe).resolved["stages"]
    assert "validation" not in stages["alone"]
    assert stages["watched"]["validation"]["every"] == 2
