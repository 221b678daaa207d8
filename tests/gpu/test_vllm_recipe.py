"""A recipe with vLLM on the learner's GPU: RL in turn, then ahead of training, each stage with an engine of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]
pytest.importorskip("vllm")

STEPS = 4
GAP = 0.02
"""Nats a token, in the mean. One step at this learning rate moves them by half a nat (seen on a CPU)."""
REWARD = """
def spread(completions, **columns):
    return [float(len(message[-1]["content"]) % 5) for message in completions]
"""


def recipe(shape: dict[str, Any]) -> dict[str, Any]:
    stage: dict[str, Any] = {
        "kind": "grpo", "prompts": {"from": "builtin:arithmetic", "n": 40}, "rewards": ["reward.py:spread"],
        "prompts_per_step": 8, "group_size": 4, "steps": STEPS, "optimizer": {"lr": 3e-3},
        "sampling": {"max_tokens": 96, "thinking_budget": 16},
    }  # fmt: skip
    shared = {"gpus": 0.5, "dtype": "bfloat16"}
    vllm = {"engine": "vllm", "memory": 0.2, "sleep": True, "eager": True, "max_context": 512, "check_weights": 1}
    return {
        "name": "beside", "seed": 3, "logging": {"rollouts_every": 0},
        "cluster": {"learner": {"zero": 1, **shared}, "rollout": {**shared, **vllm}},
        "stages": {
            "in_turn": {**stage, "model": {"from": "builtin:tiny", "scratch": shape}},
            "ahead": {**stage, "model": "in_turn", "asynchronous": {"ahead": 1, "staleness": 2}},
        },
    }  # fmt: skip


def test_two_stages_of_rl_share_a_gpu_with_their_engines(tmp_path: Path, shape: dict[str, Any]) -> None:
    path = tmp_path / "recipe.yaml"
    (tmp_path / "reward.py").write_text(REWARD, encoding="utf-8")
    path.write_text(json.dumps(recipe(shape)), encoding="utf-8")
    command = [sys.executable, "-m", "posttrain", "run", str(path), "--run-dir", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=580, check=False)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    for stage in ("in_turn", "ahead"):
        lines = (tmp_path / "run" / stage / "metrics.jsonl").read_text("utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        assert len(rows) == STEPS
        for row in rows:
            print(stage, {k: round(v, 4) for k, v in row.items() if k.startswith(("mismatch", "seconds", "stale"))})
        assert all(row["grad_norm"] > 0 for row in rows)
        if stage == "in_turn":
            assert all(row["mismatch_abs"] < GAP for row in rows)
        else:
            assert max(row["stale_versions_max"] for row in rows) >= 1
