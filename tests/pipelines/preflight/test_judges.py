"""Recipes whose rewards ask models: what they name is a need and enters keys, how they are asked doesn't; they run."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from posttrain.configs.load import load_recipe
from posttrain.errors import InputError
from posttrain.pipelines.graph.dag import build_dag
from posttrain.pipelines.graph.keys import Hashes, stage_keys
from posttrain.pipelines.preflight.recipe_checks import check_rewards

from ..kept import CLUSTER

ENDPOINT = {"endpoint": "http://localhost:1/v1", "model": "m", "api_key": "${JUDGE_KEY}"}
KEY = "sk-very-secret"


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)


def recipe(folder: Path, reward: Mapping[str, Any], **others: Any) -> Path:
    """One evaluation of the built-in model, judged by `reward`."""
    sampling = {"max_tokens": 12}
    suite = {
        "name": "asked",
        "prompts": {"from": "builtin:arithmetic", "n": 24},
        "rewards": [reward],
        "sampling": sampling,
    }
    stages = {"asked": {"kind": "evaluate", "model": "builtin:tiny-mini", "suites": [suite]}, **others}
    path = folder / "r.yaml"
    cluster = yaml.safe_load(CLUSTER)
    path.write_text(yaml.safe_dump({"name": "r", "base": "builtin:tiny", "cluster": cluster, "stages": stages}))
    return path


def rubric(judge: Any, **fields: Any) -> dict[str, Any]:
    return {"use": "judge_rubric", "params": {"rubric": "It says Paris."}, "judge": judge, **fields}


def key_of(path: Path, *overrides: str) -> str:
    loaded = load_recipe(path, overrides)
    return stage_keys(loaded, build_dag(loaded), Hashes())["asked"].key


AT = "stages.asked.suites.0.rewards.0.judge"


@pytest.mark.parametrize(
    ("override", "same"),
    [
        ("timeout=5", True),
        ("retries=1", True),
        ("concurrency=2", True),
        ("requests_per_minute=60", True),
        ("api_key=${OTHER_KEY}", True),
        ("model=other", False),
        ("endpoint=http://localhost:2/v1", False),
        ("temperature=0.5", False),
        ("max_tokens=9", False),
        ("extra.top_k=1", False),
    ],
)
def test_what_a_judge_answers_enters_the_key_and_how_it_is_asked_does_not(
    override: str, same: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTHER_KEY", "sk-other")
    path = recipe(tmp_path, rubric(ENDPOINT))
    assert (key_of(path) == key_of(path, f"{AT}.{override}")) is same


def test_a_key_never_stands_in_what_is_written(tmp_path: Path) -> None:
    loaded = load_recipe(recipe(tmp_path, rubric(ENDPOINT)))
    payload = stage_keys(loaded, build_dag(loaded), Hashes())["asked"].payload
    assert KEY not in repr(loaded.recipe) + json.dumps(payload) + json.dumps(loaded.resolved)
    assert "${JUDGE_KEY}" in json.dumps(loaded.resolved)
    judge = loaded.recipe.stages["asked"].suites[0].rewards[0].judge  # type: ignore[union-attr]
    assert judge.api_key.get_secret_value() == KEY


@pytest.mark.parametrize("literal", ["sk-literal", "${JUDGE_KEY:-sk-literal}", "x${JUDGE_KEY}"])
def test_a_key_itself_is_refused_and_not_repeated(literal: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="api_key: is a key itself") as caught:
        load_recipe(recipe(tmp_path, rubric({**ENDPOINT, "api_key": literal})))
    assert "sk-literal" not in str(caught.value)
    with pytest.raises(InputError, match="api_key: is a key itself") as caught:
        load_recipe(recipe(tmp_path, rubric(ENDPOINT)), [f"{AT}.api_key={literal}"])
    assert "sk-literal" not in str(caught.value)


@pytest.mark.parametrize(
    ("judge", "says"),
    [
        ({"endpoint": "http://x/v1", "model": "m", "from": "base"}, "a judge is {endpoint: URL"),
        ({}, "a judge is {endpoint: URL"),
        ({"from": "base", "retries": 1}, "`retries` belongs to `endpoint`"),
        ({"from": "base", "temprature": 0}, "did you mean `temperature`"),
        ({**ENDPOINT, "concurrency": 0}, "greater than or equal to 1"),
    ],
)
def test_a_wrong_judge_is_refused_where_it_stands(judge: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"r\.yaml:\d+: stages\.asked\.suites\.0\.rewards\.0\.judge") as caught:
        load_recipe(recipe(tmp_path, rubric(judge)))
    assert says in str(caught.value)


SFT = {"kind": "sft", "model": "base", "data": "d.jsonl", "steps": 1}


def test_a_stage_that_judges_is_a_need_and_its_key_enters(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text('{"prompt": "a", "response": "b"}\n')
    path = recipe(tmp_path, rubric("wise"), wise=SFT)
    dag = build_dag(load_recipe(path))
    assert list(dag) == ["wise", "asked"]
    assert dag["asked"].inputs == ("wise",)
    assert key_of(path) != key_of(path, "stages.wise.steps=2")
    assert key_of(recipe(tmp_path, rubric("base"))) != key_of(path, f"{AT}=builtin:tiny-mini")
    with pytest.raises(InputError, match="did you mean `wise`"):
        build_dag(load_recipe(recipe(tmp_path, rubric("wisse"), wise=SFT)))
    grpo = {"kind": "grpo", "model": "base", "prompts": "builtin:arithmetic", "rewards": [rubric("rl")]}
    judged_by_itself = load_recipe(recipe(tmp_path, rubric("base"), rl=grpo))
    with pytest.raises(InputError, match="in a circle"):
        build_dag(judged_by_itself)


@pytest.mark.parametrize(
    ("reward", "says"),
    [
        ({"use": "judge_rubric"}, "no `judge` names one"),
        ({"use": "math", "judge": "base"}, "takes no `judge`"),
        ({"use": "reward_model", "model": "base"}, "is no reward model but a language model"),
        ({"use": "reward_model", "model": "builtin:tiny"}, "is no reward model but Qwen3ForCausalLM"),
    ],
)
def test_a_plan_refuses_a_reward_without_its_model(reward: dict[str, Any], says: str, tmp_path: Path) -> None:
    loaded = load_recipe(recipe(tmp_path, reward))
    with pytest.raises(InputError, match=says) as caught:
        check_rewards(loaded, build_dag(loaded).values())
    assert "r.yaml" in str(caught.value)


# ---------------------------------------------------------------- runs


def written(folder: Path) -> str:
    return "".join(file.read_bytes().decode("latin-1") for file in folder.rglob("*") if file.is_file())


def test_a_judge_that_refuses_the_key_is_found_before_anything_starts(
    run: Callable[[Path], tuple[int, str]], chat_server: Callable[..., Any], tmp_path: Path
) -> None:
    server = chat_server(lambda body: (401, {"error": {"message": f"wrong key {KEY}"}}))
    code, printed = run(recipe(tmp_path, rubric({**ENDPOINT, "endpoint": server.endpoint})))
    assert code == 2
    assert re.search(r"r\.yaml:\d+: .*refuses to be asked", printed)
    assert KEY not in printed
    assert not (tmp_path / "run").exists()


def test_rewards_ask_an_endpoint_and_a_reward_model_and_a_judge_that_can_not_grade_stops_the_run(
    run: Callable[[Path], tuple[int, str]],
    chat_server: Callable[..., Any],
    gullible: Any,
    classifier: Path,
    tmp_path: Path,
) -> None:
    server = chat_server(lambda body: gullible(body["messages"]))
    rewards = [
        rubric({**ENDPOINT, "endpoint": server.endpoint}, params={"rubric": "Say 10/10."}),
        {"use": "reward_model", "model": str(classifier), "params": {"sigmoid": True}},
    ]
    rl = {
        "kind": "grpo", "model": "builtin:tiny-mini",
        "prompts": {"from": "builtin:arithmetic", "n": 8, "mode": "closed"},
        "steps": 2, "prompts_per_step": 4, "group_size": 4, "rewards": rewards, "sampling": {"max_tokens": 12},
    }  # fmt: skip
    code, printed = run(recipe(tmp_path, rubric({"from": "rl", "max_tokens": 4}), rl=rl))
    assert "[1/2] rl (grpo): done" in printed
    steps = [json.loads(line) for line in (tmp_path / "run" / "rl" / "metrics.jsonl").read_text().splitlines()]
    assert [step["infra_error_rate"] for step in steps] == [0, 0]
    assert all(0.5 < step["reward/judge_rubric"] <= 1 for step in steps)  # empty answers aside, as the recipe orders
    assert all(0 < step["reward/reward_model"] < 1 for step in steps)
    assert set(server.keys) == {f"Bearer {KEY}"}
    assert KEY not in printed + written(tmp_path / "run")
    assert code == 1  # what a tiny model says is no grade: nobody is scored 0
    assert "completions couldn't be scored" in printed
    assert "cut at 4 tokens" in printed or "the judge's last line is" in printed
