"""One list of checks: what `run` refuses before it starts, `plan --check` refuses too; a source is read once."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from posttrain.configs.load import load_recipe
from posttrain.pipelines.planning.plan import make_plan
from posttrain.pipelines.preflight.checklist import preflight
from posttrain.stages.data import load

RECIPE = """name: r
base: builtin:tiny
stages:
  first: {kind: curate, prompts: rows.jsonl, rules: []}
  tuned: {kind: sft, model: base, data: rows.jsonl, steps: 1, max_length: 64, validation: {data: rows.jsonl}}
  again: {kind: sft, model: tuned, data: rows.jsonl, steps: 1, max_length: 64}
  rl: {kind: grpo, model: tuned, prompts: rows.jsonl, rewards: [math, format], steps: 1, watch: {prompts: rows.jsonl}}
evaluate:
  suites: [{name: sums, prompts: rows.jsonl}]
  after: [tuned, rl]
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    rows = [{"prompt": f"{i}+1?", "answer": str(i + 1), "response": f"\\boxed{{{i + 1}}}"} for i in range(3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "r.yaml").write_text(RECIPE)
    return tmp_path / "r.yaml"


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("cluster.learner={workers: 3, gpus: 1}", "GPUs are asked for"),
        ("cluster.rollout={engine: vllm, gpus: 1}", "vLLM isn't installed"),
        ("logging.to=[wandb]", "wandb, which isn't installed"),
        ("stages.first.judge={endpoint: 'http://127.0.0.1:9/v1', model: m, retries: 0}", "127.0.0.1:9"),
        ("stages.rl.rewards=[{use: code, params: {language: bash}}]", "bash"),
        ("stages.tuned.data={from: rows.jsonl, columns: {prompt: question}}", "no column 'question'"),
    ],
)
def test_plan_check_refuses_what_run_refuses(recipe: Path, override: str, says: str, posttrain: Any) -> None:
    asked = (str(recipe), override, "--run-dir", str(recipe.parent / "run"))
    plan = posttrain("plan", *asked, "--check", cwd=recipe.parent)
    run = posttrain("run", *asked, cwd=recipe.parent)
    assert (plan.returncode, run.returncode) == (2, 2)
    assert says in plan.stderr
    assert plan.stderr == run.stderr
    assert not (recipe.parent / "run").exists()


def test_a_source_is_read_once_however_many_checks_and_stages_look_at_it(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: Counter[str] = Counter()
    file_rows = load.file_rows

    def counted(path: Path) -> Any:
        reads[path.name] += 1
        return file_rows(path)

    monkeypatch.setattr(load, "file_rows", counted)
    loaded = load_recipe(recipe)
    found = preflight(loaded, make_plan(loaded, recipe.parent / "run"))
    assert len(found.sources) == 8
    assert reads == {"rows.jsonl": 3}  # as prompts, as the first prompts of a crawl, and as conversations
