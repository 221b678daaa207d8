"""The graph: order, and references that lead nowhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from posttrain.configs.load import load_recipe
from posttrain.errors import InputError
from posttrain.pipelines.graph.dag import build_dag

ORDER = ["queries", "chat", "cold", "eval-cold", "rl", "fusion", "eval-fusion"]


def test_stages_run_in_the_order_of_the_file_and_evaluations_right_after(runner: Any) -> None:
    assert list(build_dag(load_recipe(runner.recipe))) == ORDER


def test_a_stage_waits_for_what_it_needs_wherever_it_stands(runner: Any) -> None:
    lines = runner.text.splitlines()
    start = lines.index("stages:") + 1
    lines[start : start + 5] = reversed(lines[start : start + 5])
    runner.recipe.write_text("\n".join(lines))
    order = list(build_dag(load_recipe(runner.recipe)))
    assert order.index("queries") < order.index("cold") < order.index("rl") < order.index("fusion")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("model: base, data: queries", "model: fusion, data: queries", "in a circle: cold -> fusion -> rl -> cold"),
        ("model: cold, prompts", "model: rl, prompts", "in a circle: rl -> rl"),
        ("model: rl, data", "model: rll, data", "there is no stage 'rll'; did you mean `rl`?"),
        ("[queries, chat]", "[query, chat]", "there is no stage 'query'; did you mean `queries`?"),
        ("[queries, chat]", "[rl, chat]", "`rl` is a grpo stage, which gives model; data is needed here"),
        ("model: rl, data", "model: chat, data", "`chat` is a sample stage, which gives data; model is needed"),
        ("a.jsonl", "missing.jsonl", "there is no file"),
        ("model: base, prompts", "model: ./missing, prompts", "there is no folder"),
        ("base: builtin:tiny\n", "", "the recipe has no `base:`"),
        ("base: builtin:tiny", "base: rl", "the base is where stages start"),
        ("builtin:arithmetic", "builtin:arithmetics", "did you mean `arithmetic`?"),
        ("after: [cold, fusion]", "after: [cold, fusoin]", "did you mean `fusion`?"),
        ("after: [cold, fusion]", "after: [cold, chat]", "no stage 'chat' gives a model"),
    ],
)  # fmt: skip
def test_a_reference_that_leads_nowhere_is_refused(runner: Any, old: str, new: str, says: str) -> None:
    assert old in runner.text
    runner.recipe.write_text(runner.text.replace(old, new, 1))
    with pytest.raises(InputError) as caught:
        build_dag(load_recipe(runner.recipe))
    assert says in str(caught.value)
    assert "r.yaml:" in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_path_from_the_environment_is_not_told(runner: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOLDER", "s3cret-folder")
    runner.recipe.write_text(runner.text.replace("a.jsonl", "'${FOLDER}/a.jsonl'"))
    with pytest.raises(InputError) as caught:
        build_dag(load_recipe(runner.recipe))
    assert "${FOLDER}/a.jsonl" in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_what_is_no_stage_is_settled_by_its_form(runner: Any, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    text = runner.text.replace("model: base, prompts", "model: ./model, prompts")
    text = text.replace("base: builtin:tiny", "base: Qwen/Qwen3-0.6B")
    runner.recipe.write_text(text)
    dag = build_dag(load_recipe(runner.recipe))
    assert [ref.what for ref in dag["chat"].references] == ["folder", "file"]
    assert [ref.what for ref in dag["fusion"].references] == ["stage", "stage", "stage"]
    assert [ref.what for ref in dag["eval-cold"].references] == ["stage", "builtin"]
