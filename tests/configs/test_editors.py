"""The JSON schema for editors: it takes what is read, short forms and children included, and marks what isn't."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from posttrain.configs.load import load_recipe, packaged_recipes
from posttrain.configs.loading.editors import json_schema
from posttrain.errors import RecipeError

SCHEMA = jsonschema.Draft202012Validator(json_schema())

SMALL = """
name: r
base: builtin:tiny
stages:
  sft: {kind: sft, model: base, data: builtin:chat, steps: 2}
"""
RL = "{kind: grpo, model: sft, prompts: builtin:arithmetic, rewards: math"
READ = [
    SMALL,
    SMALL + "  rl: " + RL + ", steps: 3}\n",
    SMALL + "cluster: {learner: {dtype: '${DTYPE:-float32}'}}\n",
    SMALL
    + "  rl: "
    + RL
    + ", steps: '${STEPS:-3}', kl: 0.01, entropy: [0.2, 0.6], covariance: clip, algorithm: dapo}\n",
    SMALL + "  rl: {kind: grpo, model: {from: sft}, tasks: all, steps: 1}\n",
    SMALL + "  s: {kind: sample, model: sft, prompts: builtin:arithmetic, filters: [complete, {use: correct}]}\n",
    SMALL + "thresholds: ['sft:a:default:accuracy >= 0']\nevaluate: {suites: [{name: a, tasks: all}], after: [sft]}\n",
    "name: r\nextends: smollm2\nstages: {reasoning_rl: {steps: 3}, thinking: {limit: ~}, fusion: ~}\n",
    "name: r\nextends: starter\nlogging: {to: []}\nstages: {s: {kind: sft, model: base, data: d.jsonl}}\n",
]
REFUSED = [
    SMALL.replace("steps: 2", "step: 2"),
    SMALL.replace("steps: 2", "steps: two"),
    SMALL.replace("data: builtin:chat, ", ""),
    SMALL.replace("kind: sft", "kind: stf"),
    "name: r\nbase: builtin:tiny\n",
    "name: r\nextends: smollm2\nstages: {reasoning_rl: {step: 3}}\n",
    "name: r\nextends: smollm2\nstages: {reasoning_rl: {steps: few}}\n",
    "name: r\nextends: smollm2\nstages: {fusion: {data: [{weight: 1}]}}\n",
    "name: r\nextends: smollm2\nstages: {reasoning_rl: {prompts: {n: 3}}}\n",
    "extends: smollm2\n",
    SMALL + "extends: ~\n",
    SMALL + "  rl: {kind: grpo, model: sft, steps: 1}\n",
    SMALL + "cluster: {learner: {zero: '${ZERO:-1}'}}\n",
    SMALL.replace("steps: 2", "steps: 'two ${N} x'"),
]


def said(text: str) -> list[str]:
    return [error.message for error in SCHEMA.iter_errors(yaml.safe_load(text))]


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())


@pytest.mark.parametrize("name", packaged_recipes())
def test_it_takes_every_packaged_recipe(name: str) -> None:
    assert not said(load_recipe(name).source)


@pytest.mark.parametrize("text", READ)
def test_it_takes_what_is_read(tmp_path: Path, text: str) -> None:
    assert not said(text)
    (tmp_path / "r.yaml").write_text(text, encoding="utf-8")
    load_recipe(tmp_path / "r.yaml")


@pytest.mark.parametrize("text", REFUSED)
def test_it_marks_what_is_not(tmp_path: Path, text: str) -> None:
    assert said(text)
    (tmp_path / "r.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError):
        load_recipe(tmp_path / "r.yaml")


def test_what_it_says_of_a_field_is_what_the_field_says() -> None:
    found: Any = json_schema()["$defs"]["Grpo"]["properties"]["steps"]
    assert "anyOf" in found
    assert json_schema()["$defs"]["RolloutCluster"]["properties"]["memory"]["description"].startswith("vLLM:")
