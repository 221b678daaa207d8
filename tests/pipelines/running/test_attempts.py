"""What went into a stage counts whole: the seconds of all attempts that it goes on from, as their tokens do."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest

from posttrain.errors import RunError, Stopped
from posttrain.pipelines.compare import compare_runs
from posttrain.pipelines.records.ledger import LIVE, Ledger
from posttrain.pipelines.records.results import read_results
from posttrain.pipelines.report.costs import stage_costs
from posttrain.pipelines.screen import stage_view


class Clock:
    """Stands for the module `time`."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def strftime(self, form: str) -> str:
        return form


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(stage_view, "time", made)
    return made


def attempt(runner: Any, clock: Clock, seconds: float, end: Any = None, *, checkpoint: bool = True) -> int:
    """Run until `rl`, which takes `seconds`, may leave a checkpoint, and ends by the error `end`."""

    def during(context: Any) -> None:
        if context.name == "rl":
            clock.now += seconds
            if checkpoint:
                (context.dir / "checkpoints" / "step-000002").mkdir(parents=True, exist_ok=True)
            if end is not None:
                raise end

    runner.during = during
    return runner.run(until="rl")


def seconds(runner: Any) -> float | None:
    results = read_results(runner.run_dir)
    assert stage_costs(results)["rl"].seconds == results.states["rl"]["seconds"]
    return results.states["rl"]["seconds"]


@pytest.mark.parametrize("end", [Stopped("stop"), RunError("broken"), ValueError("foreign")])
def test_a_resumed_stage_took_all_its_attempts(runner: Any, clock: Clock, end: Exception) -> None:
    attempt(runner, clock, 100, end)
    assert seconds(runner) == 100
    attempt(runner, clock, 20, end)
    attempt(runner, clock, 3)
    assert seconds(runner) == 123
    other = runner.folder / "other"
    shutil.copytree(runner.run_dir, other)
    cost = {cost.stage: cost for cost in compare_runs(runner.run_dir, other).costs}["rl"]
    assert cost.a is not None
    assert cost.a.seconds == 123


def test_a_killed_attempt_counts_as_far_as_it_told(runner: Any, clock: Clock) -> None:
    attempt(runner, clock, 100, Stopped("stop"))
    folder = runner.run_dir / "rl"
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps(state | {"state": "running"}))
    (folder / LIVE).write_text(json.dumps({"done": 2, "total": 6, "seconds": 140.0}))  # as a killed process leaves it
    assert seconds(runner) == 140
    attempt(runner, clock, 3)
    assert seconds(runner) == 143


def test_a_stage_that_starts_over_counts_what_it_keeps_alone(runner: Any, clock: Clock) -> None:
    attempt(runner, clock, 100, RunError("broken"), checkpoint=False)
    attempt(runner, clock, 3)
    assert seconds(runner) == 3


def test_more_steps_go_on_from_the_seconds_of_the_first(runner: Any, clock: Clock) -> None:
    attempt(runner, clock, 100)
    runner.recipe.write_text(runner.text.replace("steps: 6", "steps: 9"))
    attempt(runner, clock, 3)
    assert seconds(runner) == 103


def test_a_running_stage_tells_the_seconds_of_all_its_attempts(runner: Any, clock: Clock) -> None:
    attempt(runner, clock, 100, Stopped("stop"))
    told: list[Any] = []

    def during(context: Any) -> None:
        if context.name == "rl":
            clock.now += 5
            context.progress.start(6)
            told.append(read_results(runner.run_dir).states["rl"])

    runner.during = during
    runner.run(until="rl")
    assert (told[0]["seconds"], told[0]["live"]["seconds"]) == (105.0, 105.0)
    assert Ledger(runner.run_dir).spent("rl") == 105.0
