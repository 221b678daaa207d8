"""What is known to be wrong before a run starts is said then: where it was said, and what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from posttrain.configs.load import load_recipe
from posttrain.configs.schema import PromptSource
from posttrain.errors import DataError, PosttrainError
from posttrain.pipelines.planning.plan import make_plan
from posttrain.pipelines.preflight.machine_checks import check_machine
from posttrain.stages.data.load import check_source, load_prompts, load_rows
from posttrain.stages.models.locations import Locations

RECIPE = """name: r
base: builtin:tiny
stages:
  tuned: {kind: sft, model: base, data: {from: builtin:chat, n: 2}, steps: 1}
  rl: {kind: grpo, model: tuned, prompts: {from: builtin:arithmetic, n: 2}, rewards: math, steps: 1}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "r.yaml").write_text(RECIPE)
    return tmp_path / "r.yaml"


def check(recipe: Path, override: str) -> None:
    loaded = load_recipe(recipe, [override])
    check_machine(loaded, make_plan(loaded, recipe.parent / "run"))


def refused(recipe: Path, override: str) -> PosttrainError:
    with pytest.raises(PosttrainError) as error:
        check(recipe, override)
    return error.value


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("base=./nowhere", "no folder"),
        ("stages.rl.rewards=[maths]", "no reward 'maths'"),
        ("stages.rl.prompts=missing.jsonl", "no file"),
        ("stages.rl.model=tunde", "no stage 'tunde'"),
    ],
)
def test_what_an_override_said_is_told_as_the_overrides(recipe: Path, override: str, what: str) -> None:
    error = refused(recipe, override)
    assert what in error.what
    assert error.where == f"override {override}"


def test_a_folder_that_is_no_model_is_refused_and_its_artifact_named(recipe: Path) -> None:
    model = recipe.parent / "stage" / "artifact"
    model.mkdir(parents=True)
    assert "it has no config.json" in refused(recipe, "base=stage").what
    (model / "config.json").write_text('{"model_type": "qwen3"}')
    assert refused(recipe, "base=stage").fix == "say stage/artifact"
    check(recipe, "base=stage/artifact")


def test_a_folder_is_no_data(recipe: Path) -> None:
    (recipe.parent / "data").mkdir()
    assert refused(recipe, "stages.rl.prompts=data").fix == "name a .jsonl or .parquet file in it"


def test_gpus_and_cores_are_counted_before_the_first_stage(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for override in ("cluster.learner={workers: 3, gpus: 1}", "cluster.rollout.gpus=4"):
        error = refused(recipe, override)
        assert "GPUs are asked for, and there are 2 here" in error.what
        assert error.where == f"override {override}"
    assert "workers without a GPU" in refused(recipe, "cluster.learner.workers=100000").what
    for override in ("cluster.learner={workers: 2, gpus: 1}", "cluster.teacher={workers: 9, gpus: 1}"):
        check(recipe, override)  # no stage asks a teacher
    recipe.write_text("name: r\nstages: {q: {kind: curate, prompts: {from: builtin:arithmetic, n: 2}}}\n")
    check(recipe, "cluster.rollout.gpus=4")  # nobody answers


def rows(folder: Path, *found: object) -> PromptSource:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    return PromptSource.model_validate({"from": "rows.jsonl"})


def test_prompts_in_trls_and_verls_form_are_read(tmp_path: Path) -> None:
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"}]
    source = rows(tmp_path, {"prompt": asked, "reward_model": {"ground_truth": "2"}, "data_source": "sums"})
    ((prompt,),) = load_prompts([source], locations=Locations(recipe_dir=tmp_path), seed=0)
    assert [dict(message) for message in prompt.messages] == asked
    assert prompt.columns["reward_model"] == {"ground_truth": "2"}


def test_trls_completions_are_responses_once_mapped(tmp_path: Path) -> None:
    row = {"prompt": [{"role": "user", "content": "1+1?"}], "completion": [{"role": "assistant", "content": "2"}]}
    source = rows(tmp_path, row)
    with pytest.raises(DataError) as error:
        check_source(source, tmp_path, form="conversations")
    assert "columns: {response: completion}" in str(error.value.fix)
    mapped = source.model_copy(update={"columns": {"response": "completion"}})
    assert check_source(mapped, tmp_path, form="conversations").rows == 1


def test_a_completion_that_says_more_than_text_keeps_it(tmp_path: Path) -> None:
    turn = {"role": "assistant", "content": "2", "reasoning_content": "One and one."}
    source = rows(tmp_path, {"prompt": "1+1?", "completion": [turn]})
    mapped = source.model_copy(update={"columns": {"response": "completion"}})
    ((row,),) = (load_rows(mapped, locations=Locations(recipe_dir=tmp_path), seed=0),)
    assert row["messages"] == [{"role": "user", "content": "1+1?"}, turn]
    assert "response" not in row
    assert check_source(mapped, tmp_path, form="conversations").rows == 1


@pytest.mark.parametrize("response", ["", " \n"])
def test_an_empty_response_is_no_answer_to_learn(tmp_path: Path, response: str) -> None:
    with pytest.raises(DataError, match="`response` is empty"):
        check_source(rows(tmp_path, {"prompt": "1+1?", "response": response}), tmp_path, form="conversations")


def test_the_plan_takes_what_run_takes_and_says_where_rows_are_few(recipe: Path, posttrain: Any) -> None:
    (recipe.parent / "rows.jsonl").write_text('{"prompt": "1+1?", "response": "2"}\n' * 3)
    few = "stages.tuned.data={from: rows.jsonl, n: 9}"
    told = posttrain("plan", str(recipe), few, "--check", "--until", "tuned", "--force", "tuned", cwd=recipe.parent)
    assert told.returncode == 0, told.stderr
    assert "reads rows.jsonl: 3 rows, not the 9 that `n` asks for" in told.stdout
    assert "1 of 1 stages need work" in told.stdout
    assert "grpo" not in told.stdout
