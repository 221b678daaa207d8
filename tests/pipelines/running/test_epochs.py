"""`epochs` in place of `steps`: as many steps as the rows make of it, known once they are read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from posttrain.configs.load import load_recipe
from posttrain.errors import RecipeError
from posttrain.pipelines.planning.plan import make_plan
from posttrain.stages.sft import steps_of

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
    card = (recipe.parent / "run" / "passes" / "artifact" / "README.md").read_text()
    assert "| epochs | 1.5 |" in card
    assert "| steps | 4 |" in card


def test_more_epochs_go_on_behind_the_last_step(run: Callable[[Path], tuple[int, str]], recipe: Path) -> None:
    stage = RECIPE.split("  steps:")[0].replace("epochs: 1.5", "epochs: 1\n    checkpoint_every: 3")
    stage = stage.replace("linear", "constant")
    metrics = recipe.parent / "run" / "passes" / "metrics.jsonl"
    recipe.write_text(stage)
    assert run(recipe)[0] == 0
    before = metrics.read_text()
    recipe.write_text(stage.replace("epochs: 1\n", "epochs: 2\n"))
    (planned,) = make_plan(load_recipe(recipe), recipe.parent / "run").stages
    assert (planned.action, planned.why) == ("continue", "epochs raised from 1")
    assert run(recipe)[0] == 0
    assert metrics.read_text().startswith(before)
    assert [text.count("\n") for text in (before, metrics.read_text())] == [3, 5]


def test_a_reference_says_how_many_more(
    run: Callable[[Path], tuple[int, str]], recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = RECIPE.split("  steps:")[0].replace("epochs: 1.5", "steps: 2\n    checkpoint_every: 2")
    recipe.write_text(stage.replace("linear", "constant"))
    assert run(recipe)[0] == 0
    monkeypatch.setenv("HOW_MANY", "4")
    (planned,) = make_plan(load_recipe(recipe, ["stages.passes.steps=${HOW_MANY}"]), recipe.parent / "run").stages
    assert (planned.action, planned.why) == ("continue", "steps raised from 2")


@pytest.mark.parametrize("steps", [7, 100])
def test_both_in_one_place_are_refused(recipe: Path, steps: int) -> None:
    """Also if the steps are those that a stage has anyway."""
    recipe.write_text(RECIPE.replace("epochs: 1.5", f"epochs: 1.5\n    steps: {steps}"))
    with pytest.raises(RecipeError, match=r"r\.yaml:\d+: stages.passes: say either epochs or steps"):
        load_recipe(recipe)


@pytest.mark.parametrize("epochs", [".inf", ".nan", "0"])
def test_what_is_no_number_of_epochs_is_refused(recipe: Path, epochs: str) -> None:
    with pytest.raises(RecipeError, match=r"override stages\.passes\.epochs"):
        load_recipe(recipe, [f"stages.passes.epochs={epochs}"])


def lengths(path: Path, *overrides: str) -> dict[str, dict[str, float]]:
    """What each stage says of its length, where the resolved recipe says it."""
    stages = load_recipe(path, overrides).resolved["stages"]
    return {name: {k: v for k, v in stage.items() if k in ("steps", "epochs")} for name, stage in stages.items()}


def test_what_an_override_or_a_child_says_takes_the_others_place(recipe: Path) -> None:
    own = {"passes": {"epochs": 1.5}, "steps": {"steps": 4}, "more": {"steps": 8}}
    swapped = {"passes": {"steps": 2}, "steps": {"epochs": 3}, "more": {"steps": 8}}
    assert lengths(recipe) == own
    assert lengths(recipe, "stages.passes.steps=2", "stages.steps.epochs=3") == swapped
    child = recipe.parent / "child.yaml"
    child.write_text("name: child\nextends: r.yaml\nstages:\n  passes: {steps: 2}\n  steps: {epochs: 3}\n")
    assert lengths(child) == swapped
    resolved = recipe.parent / "resolved.yaml"
    resolved.write_text(yaml.safe_dump(load_recipe(child).resolved))
    assert lengths(resolved) == swapped


@pytest.mark.parametrize(("epochs", "rows", "batch", "steps"), [(1.1, 100, 10, 11), (0.07, 100, 7, 1), (0.01, 3, 8, 1)])
def test_a_decimal_fraction_of_the_rows_is_exact(epochs: float, rows: int, batch: int, steps: int) -> None:
    assert steps_of(epochs, rows, batch) == steps


def test_the_plan_does_not_make_tokens_up(recipe: Path, tmp_path: Path) -> None:
    tokens = {stage.name: stage.estimate.tokens for stage in make_plan(load_recipe(recipe), tmp_path / "run").stages}
    assert tokens["passes"] is None
    assert tokens["steps"] == 4 * 4 * 1024
