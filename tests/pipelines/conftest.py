"""A recipe over data files, and stages that write what real ones would without training anything."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from rich.console import Console

from posttrain.configs.load import load_recipe
from posttrain.pipelines.cli import main
from posttrain.pipelines.run import run_recipe
from posttrain.stages.context import StageContext, StageResult

RECIPE = """name: r
seed: 1
base: builtin:tiny
stages:
  queries: {kind: curate, prompts: a.jsonl}
  chat: {kind: sample, model: base, prompts: b.jsonl}
  cold: {kind: sft, model: base, data: queries, steps: 4}
  rl: {kind: grpo, model: cold, prompts: queries, rewards: math, steps: 6}
  fusion: {kind: sft, model: rl, data: [queries, chat], steps: 2}
evaluate:
  suites:
    - {name: sums, prompts: builtin:arithmetic}
  after: [cold, fusion]
thresholds:
  - "fusion:sums:default:accuracy - cold:sums:default:accuracy >= 0.1"
"""


@dataclass
class Runner:
    """Runs recipes in a folder with fake stages, and remembers which stages worked."""

    folder: Path
    worked: list[str] = field(default_factory=list)
    during: Callable[[StageContext], None] = lambda context: None
    accuracy: dict[str, float] = field(default_factory=lambda: {"cold": 0.2, "fusion": 0.8})
    printed: str = ""
    text: str = RECIPE

    @property
    def recipe(self) -> Path:
        return self.folder / "r.yaml"

    @property
    def run_dir(self) -> Path:
        return self.folder / "run"

    def stage(self, context: StageContext) -> StageResult:
        self.worked.append(context.name)
        self.during(context)
        context.progress.start(3)
        for step in range(3):
            context.metrics.write(step, {"loss": 1.0 / (step + 1)})
            context.progress.advance()
        if context.spec.kind == "evaluate":
            value = self.accuracy[context.spec.model.source]
            row = {"suite": "sums", "mode": "default", "metric": "accuracy", "n": 9}
            row |= dict.fromkeys(("value", "low", "high"), value)
            (context.artifact_dir / "table.json").write_text(json.dumps({"rows": [row]}))
            return StageResult(kind="table")
        (context.artifact_dir / "result.txt").write_text(f"{context.name} {sorted(context.inputs)}")
        gives = "model" if context.spec.kind in ("sft", "grpo") else "data"
        return StageResult(kind=gives, metrics={"loss": 0.3})  # type: ignore[arg-type]

    def run(self, *overrides: str, **options: object) -> int:
        self.worked.clear()
        out = io.StringIO()
        try:
            return run_recipe(
                load_recipe(self.recipe, overrides),
                self.run_dir,
                console=Console(file=out, width=200),
                run_one=self.stage,
                **options,  # type: ignore[arg-type]
            )
        finally:
            self.printed = out.getvalue()


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    for name in ("a", "b"):
        rows = [{"prompt": f"{name}{i}?", "answer": str(i)} for i in range(3)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "r.yaml").write_text(RECIPE)
    return Runner(tmp_path)


Call = Callable[..., "CompletedProcess[str]"]


@pytest.fixture
def posttrain(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """The command line as a function: its exit code and all that it printed. Another exception than an exit passes."""

    def call(*arguments: str, cwd: Path, stdin: str = "") -> CompletedProcess[str]:
        capfd.readouterr()
        with monkeypatch.context() as patch:
            patch.chdir(cwd)
            patch.setattr(sys, "argv", ["posttrain", *arguments])
            patch.setattr(sys, "stdin", io.StringIO(stdin))
            patch.setenv("TQDM_DISABLE", "1")  # the command sets it for its process
            with pytest.raises(SystemExit) as ended:
                main()
        out, err = capfd.readouterr()
        code = ended.value.code
        return CompletedProcess(arguments, code if isinstance(code, int) else int(code is not None), out, err)

    return call


@pytest.fixture(scope="session")
def kept_run(ray_session: None) -> Iterator[Callable[..., int]]:
    """`run_recipe` with actors that this session's runs hand on (see kept.py)."""
    from .kept import KeptWorkers

    def call(*arguments: Any, **options: Any) -> int:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("posttrain.pipelines.run.ClusterWorkers", KeptWorkers)
            return run_recipe(*arguments, **options)

    yield call
    KeptWorkers.end()


@pytest.fixture
def kept_workers(kept_run: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for all runs of a test, those of the command line too."""
    monkeypatch.setattr("posttrain.pipelines.run.run_recipe", kept_run)
