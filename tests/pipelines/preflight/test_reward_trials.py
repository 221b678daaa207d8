"""A reward that no row comes to is refused before the run; the values that rows have are named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from posttrain.configs.load import load_recipe
from posttrain.errors import DataError, RecipeError
from posttrain.pipelines.planning.plan import make_plan
from posttrain.pipelines.preflight import reward_trials, sources
from posttrain.pipelines.preflight.data_checks import DataRead, check_data
from posttrain.stages.learner.trainer import why_nothing
from posttrain.stages.rollout.scoring import score_metrics
from posttrain.types import Completion, Group, Prompt, Score, ScoredGroup

ROWS = [{"prompt": f"{i}+1?", "answer": str(i + 1), "task": task} for i, task in enumerate(["sums", "logic"] * 2)]


def group(count: int) -> Group:
    prompt, none = Prompt(id="q", messages=({"role": "user", "content": "?"},)), np.zeros(0)
    answer = Completion(
        prompt_id="q", index=0, prompt_ids=none, token_ids=none, text="", sources=none, logprobs=none, versions=none,
        finish_reason="stop",
    )  # fmt: skip
    return Group(prompt=prompt, completions=(answer,) * count)


def check(folder: Path, rewards: str, prompts: str = "rows.jsonl") -> DataRead:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "r.yaml").write_text(
        "name: r\nbase: builtin:tiny\nstages:\n"
        "  queries: {kind: curate, prompts: rows.jsonl}\n"
        f"  rl: {{kind: grpo, model: base, prompts: {prompts}, rewards: {rewards}}}\n"
    )
    loaded = load_recipe(str(folder / "r.yaml"))
    return check_data(loaded, make_plan(loaded, folder / "run"))


@pytest.mark.parametrize("when", ["{task: sums}", "{task: [logic, maths]}"])
def test_a_condition_that_some_row_meets_is_fine(tmp_path: Path, when: str) -> None:
    assert check(tmp_path, f"[math, {{use: format, when: {when}}}]").notes == []


@pytest.mark.parametrize(
    ("when", "told"),
    [("{task: maths}", "`task` is sums, logic"), ("{subject: sums}", "no row has a column `subject`")],
)
def test_one_that_none_meets_is_told_with_what_the_rows_say(tmp_path: Path, when: str, told: str) -> None:
    notes = check(tmp_path, f"[math, {{use: format, when: {when}}}]").notes
    assert notes == [f"rl: reward 'format': `when` fits none of 4 rows: {told}"]


def test_where_no_reward_applies_to_any_row_nothing_starts(tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"rl: no reward applies to any row; reward 'format'.*`task` is sums"
    ) as error:
        check(tmp_path, "[{use: format, when: {task: maths}}, {use: math, when: {task: x}}]")
    assert "r.yaml:5" in str(error.value.where)


def test_columns_that_an_episode_will_add_are_not_known_yet(tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text(
        "def frugal(completions, left=None, **columns):\n    return [float(n) for n in left]\n"
    )
    asked = "{from: rows.jsonl, environment: calculator}"
    check(tmp_path, "[{use: math, when: {won: true}}, {use: 'f.py:frugal', when: {won: true}}]", prompts=asked)
    check(tmp_path, "[math, 'f.py:frugal']", prompts=asked)


def test_rows_that_curate_did_not_look_at_may_meet_a_condition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "TRIED", 4)
    monkeypatch.setattr(reward_trials, "TRIED", 4)
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "name: r\nbase: builtin:tiny\nstages:\n"
        "  q: {kind: curate, model: base, prompts: rows.jsonl, rules: [], rewards: [{use: math, when: {task: code}}]}\n"
    )
    for tasks in (["sums"] * 3, ["sums"] * 5):  # of three rows all are known
        rows = [{"prompt": f"{i}+1?", "answer": str(i + 1), "task": task} for i, task in enumerate(tasks)]
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        loaded = load_recipe(recipe)
        if len(tasks) == 3:
            with pytest.raises(RecipeError, match="no reward applies to any row"):
                check_data(loaded, make_plan(loaded, tmp_path / "run"))
        else:
            check_data(loaded, make_plan(loaded, tmp_path / "run"))


def test_a_context_that_vllm_stretches_is_not_known(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    config = {"model_type": "qwen3", "max_position_embeddings": 40960, "rope_scaling": yarn}
    (model / "config.json").write_text(json.dumps(config))
    recipe = tmp_path / "r.yaml"
    vllm = "learner: {gpus: 0.5}, rollout: {gpus: 0.5, engine: vllm"
    for cluster, refused in (("", True), (f"{vllm}}}", False), (f"{vllm}, max_context: 65536}}", True)):
        recipe.write_text(
            f"name: r\nbase: model\ncluster: {{{cluster}}}\nstages:\n"
            "  a: {kind: sample, model: base, prompts: builtin:arithmetic, sampling: {max_tokens: 65536}}\n"
        )
        if refused:
            with pytest.raises(RecipeError, match="leave no room for a prompt"):
                make_plan(load_recipe(recipe), tmp_path / "run")
        else:
            make_plan(load_recipe(recipe), tmp_path / "run")


def test_rows_that_a_stage_will_make_are_not_known_yet(tmp_path: Path) -> None:
    check(tmp_path, "[math, {use: format, when: {task: maths}}]", prompts="queries")


def test_a_step_without_anything_to_train_on_says_what_became_of_its_completions() -> None:
    scores = (
        Score(value=None, status="infra_error", detail="Traceback:\nKeyError: 'x'"),
        Score(value=None, status="not_applicable"), Score(value=1.0), Score(value=1.0),
    )  # fmt: skip
    told = why_nothing([ScoredGroup(group=group(4), scores=scores)], cut=True)
    assert told == (
        "of 4 completions 1 couldn't be scored, 1 have no reward that applies to them, 2 score as all others of their "
        "group; the first failure: KeyError: 'x'"
    )


def test_no_score_is_no_reward_of_0() -> None:
    failed = Score(value=None, status="infra_error", detail="gone")
    metrics = score_metrics([ScoredGroup(group=group(2), scores=(failed, failed))])
    assert metrics["infra_error_rate"] == 1
    assert "reward" not in metrics


def test_a_prompt_that_leaves_no_room_for_its_completion_is_named(tmp_path: Path) -> None:
    (tmp_path / "long.jsonl").write_text(
        "".join(json.dumps({"prompt": "1+1? " * n, "answer": "2"}) + "\n" for n in (1, 1000))
    )
    fits = "{from: long.jsonl, n: 1}"
    check(tmp_path, "math, sampling: {max_tokens: 1500}", prompts=fits)
    with pytest.raises(DataError, match=r"rl: a prompt of [0-9]+ tokens and a completion of 32 don't fit") as error:
        check(tmp_path, "math, sampling: {max_tokens: 32}", prompts="long.jsonl")
    assert str(error.value.where).startswith("long.jsonl: row 2")


def test_completions_that_fill_the_context_are_refused_by_the_plan(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"max_tokens 2048 leave no room for a prompt in a context of 2048"):
        check(tmp_path, "math, sampling: {max_tokens: 2048}", prompts="queries")
    check(tmp_path, "math, sampling: {max_tokens: 2047}", prompts="queries")
