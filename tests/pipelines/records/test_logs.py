"""The growing files and the lines a person sees."""

from __future__ import annotations

import io
import json
from pathlib import Path

from rich.console import Console

from posttrain.pipelines.records.logs import MetricFile, read_metrics
from posttrain.pipelines.screen.numbers import count_of, duration
from posttrain.pipelines.screen.stage_view import StageView


def metric_file(path: Path) -> MetricFile:
    return MetricFile(path, lambda metrics: None)


def test_metrics_are_cut_back_to_a_checkpoint(tmp_path: Path) -> None:
    metrics = metric_file(tmp_path / "metrics.jsonl")
    for step in range(5):
        metrics.write(step, {"loss": step / 2})
    with metrics.path.open("a") as file:
        file.write('{"step": 5, "lo')  # torn by a crash
    metrics.cut(2)
    metrics.write(3, {"loss": float("nan")})
    assert read_metrics(metrics.path) == [
        {"step": 0, "loss": 0.0}, {"step": 1, "loss": 0.5}, {"step": 2, "loss": 1.0}, {"step": 3, "loss": None},
    ]  # fmt: skip
    assert all(json.loads(line) for line in metrics.path.read_text().splitlines())


def test_plain_lines_come_ten_times_a_stage(tmp_path: Path) -> None:
    out = io.StringIO()
    with StageView(Console(file=out, width=200), "[1/1] rl (grpo)", str.upper) as view:
        view.start(100)
        for step in range(100):
            view.show({"loss": 1 / (step + 1), "reward": 0.5, "seconds": 3.0})
            view.advance()
    lines = out.getvalue().splitlines()
    assert len(lines) == 11
    assert lines[1].startswith("[1/1] RL (GRPO): STEP 10/100 (")
    assert "LEFT)" in lines[1]
    assert lines[-1].endswith("LOSS 0.01  REWARD 0.5")


def test_a_terminal_gets_a_bar() -> None:
    out = io.StringIO()
    with StageView(Console(file=out, force_terminal=True, width=120), "rl", str) as view:
        view.start(4, done=1)
        view.advance(2, "reward 0.5")
        view.say("a line above the bar")
    assert "3/4" in out.getvalue()
    assert "a line above the bar" in out.getvalue()


def test_durations_read_well() -> None:
    assert [duration(s) for s in (0.94, 48, 192, 7500)] == ["0.9 s", "48 s", "3 min 12 s", "2 h 05 min"]


def test_counts_read_well() -> None:
    assert [count_of(n) for n in (None, 950, 12_345, 4_560_000, 3 * 10**12)] == ["", "950", "12.3k", "4.56M", "3T"]
