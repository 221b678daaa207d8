"""A training stage that ended behind its last checkpoint and before its artifact has nothing left but the export."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posttrain.stages.learner.ranks import Learner

RECIPE = """name: last
seed: 3
base: builtin:tiny
cluster: {learner: {workers: 1, zero: 1, threads: 1}, rollout: {workers: 1, threads: 1}}
stages:
  tuned: {kind: sft, model: base, data: {from: builtin:chat, n: 8}, batch_size: 2, steps: 2, checkpoint_every: 1}
  rl:
    {kind: grpo, model: tuned, prompts: {from: builtin:arithmetic, n: 4}, rewards: math, prompts_per_step: 2,
     group_size: 2, steps: 2, checkpoint_every: 1, sampling: {max_tokens: 4}}
  student:
    {kind: distill, model: base, teacher: rl, prompts: {from: builtin:arithmetic, n: 4}, prompts_per_step: 2, steps: 2,
     checkpoint_every: 1, sampling: {max_tokens: 4}}
"""


def test_the_same_command_exports_it_with_the_last_steps_metrics(
    run: Callable[[Path], tuple[int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each stage fails once as it is exported: no step is left for the session that goes on."""
    (tmp_path / "r.yaml").write_text(RECIPE)
    export, failed = Learner.export, list[str]()

    def once(learner: Learner, folder: Path, *arguments: Any) -> None:
        stage = folder.parent.name
        if stage not in failed:
            failed.append(stage)
            raise OSError("no space left on device")
        export(learner, folder, *arguments)

    monkeypatch.setattr(Learner, "export", once)
    for stage in ("tuned", "rl", "student"):
        code, said = run(tmp_path / "r.yaml")
        assert code, said
        assert failed[-1] == stage
    code, said = run(tmp_path / "r.yaml")
    assert code == 0, said
    for stage, named in (("tuned", "loss"), ("rl", "reward"), ("student", "divergence")):
        manifest = json.loads((tmp_path / "run" / stage / "artifact" / "manifest.json").read_text())
        steps = [json.loads(line) for line in (tmp_path / "run" / stage / "metrics.jsonl").read_text().splitlines()]
        assert len(steps) == 2
        assert manifest["metrics"][named] == steps[-1][named]
