"""Model cards: trained models have one, and it says what they were made from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from posttrain.configs.load import load_recipe
from posttrain.pipelines.running.model_card import CARD, lineage


def card(runner: Any, stage: str = "fusion") -> str:
    return str((runner.run_dir / stage / "artifact" / CARD).read_text("utf-8"))


@pytest.fixture
def done(runner: Any) -> Any:
    runner.take_finished()
    return runner


def test_trained_models_have_a_card_and_data_none(done: Any) -> None:
    have = {path.parent.parent.name for path in done.run_dir.glob(f"*/artifact/{CARD}")}
    assert have == {"cold", "rl", "fusion"}


def test_a_card_names_recipe_stage_key_parent_and_numbers(done: Any) -> None:
    key = json.loads((done.run_dir / "fusion" / "spec.json").read_text())["key"]
    for row in (
        "| recipe | r |",
        "| stage | fusion (sft) |",
        f"| key | `{key}` |",
        "| parent | rl |",
        "| loss | 0.3 |",
    ):
        assert row in card(done)


def test_a_card_is_under_the_manifests_checksums(done: Any) -> None:
    manifest = json.loads((done.run_dir / "rl" / "artifact" / "manifest.json").read_text())
    assert CARD in manifest["files"]


def test_the_lineage_starts_at_the_base(done: Any) -> None:
    assert lineage(load_recipe(done.recipe).recipe, "fusion") == ["builtin:tiny", "cold", "rl", "fusion"]


@pytest.mark.parametrize(("base", "named"), [("Qwen/Qwen3-0.6B", True), ("builtin:tiny", False)])
def test_hubs_are_told_a_base_that_they_know(runner: Any, base: str, named: bool) -> None:
    assert runner.run(f"base={base}") == 0
    front = yaml.safe_load(card(runner).split("---\n")[1])
    assert ("base_model" in front) == named
    assert front["tags"] == ["posttrain", "sft"]


def test_values_from_the_environment_stay_out(runner: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    secret = tmp_path / "hush-hush"
    secret.mkdir()
    (secret / "config.json").write_text("{}")
    monkeypatch.setenv("WHERE", str(secret))
    runner.recipe.write_text(runner.text.replace("builtin:tiny", "${WHERE}"))
    assert runner.run() == 0
    assert "hush-hush" not in card(runner)
    assert "${WHERE}" in card(runner)
