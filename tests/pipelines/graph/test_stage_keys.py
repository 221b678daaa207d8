"""The keys of the packaged recipes' stages: a change of the code that moves one makes every finished run start over.

Where the meaning of a recipe changes on purpose, write the new keys down: run this file with python.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from posttrain.configs.load import load_recipe, packaged_recipes
from posttrain.pipelines.graph.dag import build_dag
from posttrain.pipelines.graph.keys import Hashes, stage_keys

KNOWN = Path(__file__).with_suffix(".json")
RECIPES = [name for name in packaged_recipes() if name != "smollm2"]
"""Those that need no package beside the tests' own."""


def keys_of(recipe: str) -> dict[str, str]:
    loaded = load_recipe(recipe)
    return {name: made.key for name, made in stage_keys(loaded, build_dag(loaded), Hashes()).items()}


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_stages_of_a_packaged_recipe_keep_their_keys(recipe: str) -> None:
    assert keys_of(recipe) == json.loads(KNOWN.read_text("utf-8"))[recipe]


if __name__ == "__main__":
    KNOWN.write_text(json.dumps({name: keys_of(name) for name in RECIPES}, indent=2) + "\n", "utf-8")
