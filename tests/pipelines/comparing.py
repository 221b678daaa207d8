"""Runs whose evaluations are real but for the model: what a question scores is a function of its number."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from posttrain.configs.load import load_recipe
from posttrain.pipelines.compare import Comparison
from posttrain.pipelines.compare.numbers import ComparedNumber
from posttrain.pipelines.graph.keys import Hashes
from posttrain.pipelines.running.run import run_recipe
from posttrain.stages import evaluate
from posttrain.stages.context import StageContext, StageResult
from posttrain.stages.data.store import read_rows, write_rows
from posttrain.stages.models.locations import builtin_path
from posttrain.types import Completion, Group, Prompt, Score, ScoredGroup

RECIPE = """name: r
base: builtin:tiny
stages:
  cold: {kind: sft, model: base, data: train.jsonl, steps: 4}
  rl: {kind: grpo, model: cold, prompts: train.jsonl, rewards: [math, format], steps: 6}
evaluate:
  suites:
    - {name: held-out, prompts: held.jsonl, k: 4, modes: [think, no_think]}
    - {name: budget, measure: budget, prompts: held.jsonl, budgets: [0, 16], modes: [think]}
    - {name: flags, measure: mode_following, prompts: {from: builtin:dialogues, split: heldout, n: 12}}
  after: [cold, rl]
"""

Scores = Callable[[str, int, int], float | None]
"""(stage, number of the question, sample) -> its score; None: no verdict."""


def even(stage: str, question: int, sample: int) -> float | None:
    """Every second question is hard, and RL mends some of those."""
    return float((question * 7 + sample * 3 + (question % 5 if stage == "rl" else 0)) % 4 > 1)


@dataclass
class Workers:
    """Stands for models and rewards: answers by `scores`."""

    stage: str
    scores: Scores
    environment: None = None

    def rollout(self) -> Workers:
        return self

    def free(self) -> None: ...

    @contextmanager
    def scorer(self, uses: Any, locations: Any) -> Iterator[None]:
        yield

    def generate(self, prompts: Sequence[Prompt], n: int, params: Any, *, seed: int) -> Iterator[Group]:
        for number, prompt in enumerate(prompts):
            yield Group(prompt=prompt, completions=tuple(completion(prompt, number, i) for i in range(n)))

    def collect(self, prompts: Sequence[Prompt], k: int) -> list[ScoredGroup]:
        groups = []
        for group in self.generate(prompts, k, None, seed=0):
            number = int(str(group.prompt.messages[-1]["content"]).split("+")[0])
            values = [self.scores(self.stage, number, i) for i in range(k)]
            verdicts = [Score(value=v, status="infra_error" if v is None else "ok") for v in values]
            groups.append(ScoredGroup(group=group, scores=tuple(verdicts)))
        return groups


def completion(prompt: Prompt, number: int, index: int) -> Completion:
    """Of another length and form for each question and sample."""
    tokens = 3 + number % 5 + index
    text = "<think>\n\n</think>\n\n4" if (number + index) % 3 == 0 else "<think>\nhm\n</think>\n\n4"
    return Completion(
        prompt_id=prompt.id, index=index, prompt_ids=np.arange(3), token_ids=np.arange(tokens),
        text=text if number % 7 else "4", sources=np.zeros(tokens, np.int8), logprobs=np.zeros(tokens, np.float32),
        versions=np.zeros(tokens, np.int32), finish_reason="length" if number % 4 == 0 else "stop",
    )  # fmt: skip


@dataclass
class Kept:
    """Finished runs by all that decided what is in them."""

    folder: Path
    runs: dict[Hashable, Path] = field(default_factory=dict)

    def run(self, wanted: Hashable | None, target: Path, run: Callable[[], None]) -> Path:
        """Makes `target` by `run`, or as a copy of what stands under `wanted`."""
        if wanted in self.runs:
            shutil.copytree(self.runs[wanted], target)
            return target
        run()
        if wanted is not None:
            self.runs[wanted] = Path(tempfile.mkdtemp(dir=self.folder))
            shutil.copytree(target, self.runs[wanted], dirs_exist_ok=True)
        return target


@dataclass
class Runs:
    """Makes run folders in one folder of data."""

    folder: Path
    kept: Kept
    text: str = RECIPE
    data: str = ""
    """Rows that a `curate` stage gives."""

    reward: float = 0.25
    """What RL ends with."""

    def rows(self, name: str, count: int, first: int = 0) -> None:
        """`count` questions of two tasks and two domains, told apart by an id."""
        rows = [
            {"id": f"q{i}", "prompt": f"{i}+1?", "answer": str(i + 1), "response": "<think>\n\n</think>\n\n4",
             "task": f"t{i % 2}", "domain": f"d{i % 3 % 2}"}
            for i in range(first, first + count)
        ]  # fmt: skip
        (self.folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(self, name: str, *overrides: str, scores: Scores = even, until: str | None = None) -> Path:
        """Run the recipe into the folder `name`; where another test ran the same, give a copy of that."""
        (self.folder / "r.yaml").write_text(self.text)
        files = [path for path in sorted(self.folder.iterdir()) if path.is_file() and path.name != "printed.txt"]
        content = tuple((path.name, path.read_text()) for path in files)
        plain = not overrides and not (self.folder / "model").exists() and not (self.folder / name).exists()
        return self.kept.run(
            (content, scores, until, self.data, self.reward) if plain else None,
            self.folder / name,
            lambda: self._run(name, overrides, scores, until),
        )

    def _run(self, name: str, overrides: Sequence[str], scores: Scores, until: str | None) -> None:
        def stage(context: StageContext) -> StageResult:
            context.metrics.write(1, {"loss": 0.5, "reward": self.reward, "tokens": 100, "generated_tokens": 40})
            if context.spec.kind == "evaluate":
                workers: Any = Workers(context.spec.model.source, scores)
                return evaluate.run(replace(context, workers=workers))
            if context.spec.kind == "curate":
                write_rows(context.artifact_dir, [json.loads(line) for line in self.data.splitlines()])
                return StageResult(kind="data")
            (context.artifact_dir / "result.txt").write_text(context.name)
            if self.data:  # a stage's questions are measured by the model's tokenizer
                tiny = Path(str(builtin_path("builtin:tiny")))
                for file in (*tiny.glob("*.json"), *tiny.glob("*.jinja")):
                    shutil.copy(file, context.artifact_dir)
            return StageResult(kind="model", metrics={"loss": 0.5, "reward": self.reward})

        with (self.folder / "printed.txt").open("w") as file:
            loaded, console = load_recipe(self.folder / "r.yaml", overrides), Console(file=file, width=200)
            code = run_recipe(loaded, self.folder / name, console=console, run_one=stage, until=until)
        assert code == 0


def make_runs(folder: Path, monkeypatch: pytest.MonkeyPatch, kept: Kept) -> Runs:
    """Evaluations that ask `Workers`, over 40 held-out questions."""
    monkeypatch.setattr(evaluate, "load_policy", lambda context, model: (context.workers, None))
    monkeypatch.setattr(evaluate, "collect", lambda pool, scorer, prompts, k, *rest, **more: pool.collect(prompts, k))
    made = Runs(folder, kept)
    made.rows("train.jsonl", 5, first=100)
    made.rows("held.jsonl", 40)
    return made


def better(stage: str, question: int, sample: int) -> float | None:
    """RL solves every third question that it did not."""
    return 1.0 if stage == "rl" and question % 3 == 0 else even(stage, question, sample)


def number(comparison: Comparison, name: str = "rl:held-out:think:accuracy") -> ComparedNumber:
    (found,) = [n for n in comparison.numbers if ":".join((n.a.stage, n.a.suite, n.a.mode, n.a.metric)) == name]
    return found


def scores(run: Path, stage: str = "rl", ask: str = "think") -> dict[str, list[float]]:
    """By question id, straight from the file."""
    kept: dict[str, list[float]] = {}
    for row in read_rows(run / f"eval-{stage}" / "artifact" / "completions.parquet"):
        if (row["suite"], row["ask"]) == ("held-out", ask):
            kept.setdefault(row["prompt_id"], []).append(row["score"])
    return kept


def edit(run: Path, name: str, change: Any) -> None:
    """Rewrite an evaluation's completions, and its manifest so that it passes for undamaged."""
    artifact = run / name / "artifact"
    write_rows(artifact, change(read_rows(artifact / "completions.parquet")), "completions.parquet")
    manifest = json.loads((artifact / "manifest.json").read_text())
    path = artifact / "completions.parquet"
    manifest["files"][path.name] = {"size": path.stat().st_size, "sha256": Hashes().file(path)}
    (artifact / "manifest.json").write_text(json.dumps(manifest))
