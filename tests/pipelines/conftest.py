"""A recipe over data files, and stages that write what real ones would without training anything."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from rich.console import Console

from posttrain.configs.load import load_recipe
from posttrain.pipelines.commands.cli import main
from posttrain.pipelines.commands.project import write_project
from posttrain.pipelines.running.run import run_recipe
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
    finished: Callable[[], Path] | None = None
    """The folder of a finished run of `RECIPE`."""

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

    def take_finished(self) -> None:
        """Have a copy of a finished run, where it isn't the running that is looked at."""
        assert self.finished is not None
        shutil.copytree(self.finished(), self.run_dir)

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


def make_runner(folder: Path) -> Runner:
    for name in ("a", "b"):
        rows = [{"prompt": f"{name}{i}?", "answer": str(i)} for i in range(3)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "r.yaml").write_text(RECIPE)
    return Runner(folder)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Gives the folder of a finished run, made for the first who asks; to be copied, not to be changed."""

    @cache
    def run() -> Path:
        made = make_runner(tmp_path_factory.mktemp("finished"))
        assert made.run() == 0
        return made.run_dir

    return run


@pytest.fixture
def runner(tmp_path: Path, finished_run: Callable[[], Path]) -> Runner:
    made = make_runner(tmp_path)
    made.finished = finished_run
    return made


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
def kept_runs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What tests of comparisons ran already."""
    from .comparing import Kept

    return Kept(tmp_path_factory.mktemp("kept"))


@dataclass(frozen=True)
class Project:
    """A new project, and the command as CI calls it there: in a pipe, where colours are forced."""

    folder: Path
    smaller: tuple[str, ...] = (
        "stages.demonstrations.prompts.0.n=8", "stages.cold_start.steps=2", "stages.cold_start.batch_size=4",
        "stages.reasoning_rl.steps=1", "stages.reasoning_rl.prompts_per_step=2", "stages.reasoning_rl.group_size=2",
        "evaluate.suites.0.prompts.0.n=2", "evaluate.suites.1.prompts.0.n=2", "thresholds=[]",
    )  # fmt: skip
    """What makes its recipe a matter of seconds."""

    def __call__(self, *arguments: str) -> CompletedProcess[bytes]:
        forced = {"FORCE_COLOR": "1", "TERM": "xterm-256color", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
        environment = {name: value for name, value in os.environ.items() if name != "TQDM_DISABLE"} | forced
        command = [sys.executable, "-m", "posttrain", *arguments]
        return subprocess.run(command, cwd=self.folder, capture_output=True, timeout=280, env=environment)


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """As `posttrain init mine` leaves it."""
    folder = tmp_path_factory.mktemp("project") / "mine"
    write_project(folder)
    return Project(folder)


@pytest.fixture(scope="session")
def first(project: Project) -> CompletedProcess[bytes]:
    """The first run of the project's recipe, with real models."""
    return project("run", "recipe.yaml", *project.smaller)


@pytest.fixture(scope="session")
def kept_run(ray_session: None) -> Iterator[Callable[..., int]]:
    """`run_recipe` with actors that this session's runs hand on (see kept.py)."""
    from .kept import KeptWorkers

    def call(*arguments: Any, **options: Any) -> int:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("posttrain.pipelines.running.run.ClusterWorkers", KeptWorkers)
            return run_recipe(*arguments, **options)

    yield call
    KeptWorkers.end()


@pytest.fixture
def kept_workers(kept_run: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for all runs of a test, those of the command line too."""
    monkeypatch.setattr("posttrain.pipelines.running.run.run_recipe", kept_run)


@pytest.fixture
def run(kept_workers: None, posttrain: Call) -> Callable[[Path], tuple[int, str]]:
    """`posttrain run` of a recipe, into `run` beside it: the exit code, and what was printed."""

    def call(path: Path) -> tuple[int, str]:
        done = posttrain("run", str(path), "--run-dir", str(path.parent / "run"), cwd=path.parent)
        return done.returncode, done.stdout + done.stderr

    return call
