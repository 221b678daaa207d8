"""`epochs` in place of `steps`: as many steps as the rows make of it, known once they are read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from posttrain.configs.load import load_recipe
from posttrain.errors import RecipeError
from posttrain.pipelines.plan import make_plan

RECIPE = """name: epochs
base: builtin:tiny
cluster: {learner: {threads: 1}}
stages:
  passes: &sft
    kind: sft
    model: base
    data: [{from: "builtin:chat", n: 7}, {from: rows.jsonl}]
    batch_size: 4
    epochs: 1.5
    optimizer: {lr: 1.0e-3, schedule: linear}
  steps: {<<: *sft, epochs: null, steps: 4}
  more: {<<: *sft, epochs: null, steps: 8}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "r.yaml").write_text(RECIPE)
    rows = [{"prompt": f"Say {word}.", "response": word} for word in ("one", "two", "three")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "r.yaml"


def test_epochs_are_so_many_steps_with_their_schedule(run: Callable[[Path], tuple[int, str]], recipe: Path) -> None:
    """Of 10 rows 1.5 times in fours: four steps. A longer stage's rate falls more slowly, which shows in the loss."""
    code, said = run(recipe)
    assert code == 0, said
    losses = {}
    for stage in ("passes", "steps", "more"):
        lines = (recipe.parent / "run" / stage / "metrics.jsonl").read_text().splitlines()
        losses[stage] = [json.loads(line)["loss"] for line in lines]
    assert len(losses["passes"]) == 4
    assert losses["passes"] == losses["steps"] != losses["more"][:4]
    assert "| epochs | 1.5 |" in (recipe.parent / "run" / "passes" / "artifact" / "README.md").read_text()


def test_both_are_refused(recipe: Path) -> None:
    with pytest.raises(RecipeError, match="say either epochs or steps"):
        load_recipe(recipe, ["stages.steps.epochs=2"])


def test_the_plan_does_not_make_tokens_up(recipe: Path, tmp_path: Path) -> None:
    tokens = {stage.name: stage.estimate.tokens for stage in make_plan(load_recipe(recipe), tmp_path / "run").stages}
    assert tokens["passes"] is None
    assert tokens["steps"] == 4 * 4 * 1024
