"""Curves by theme: what a training stage logged, and accuracy by thinking budget."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.pipelines.records.logs import read_metrics
from posttrain.pipelines.records.results import RunResults

POINTS = 400
"""Most points of a curve on the page; longer ones keep every nth line."""
SERIES = 8

Chart = dict[str, Any]
"""{theme, title, unit, x, series: [{name, y}], stacked, bands}, as app.js draws it."""

THEMES: Mapping[str, str] = {
    "Reward": r"reward|reward/.*|accuracy",
    "Reward by task": r"reward_by_task/.*",
    "Loss": r"loss|nll",
    "Entropy": r"entropy",
    "Length": r"length|length_max",
    "Divergence and mismatch": r"kl|approx_kl|mismatch_kl|mismatch_k3|logprob_gap|reverse_kl|forward_kl|jsd",
    "Clip share": r"clip_low|clip_high|clip_fraction|mask_share",
    "Shares": r"think_format|thinking|truncated|zero_variance_groups|infra_error_rate|not_applicable_rate",
    "Throughput, tokens a second": r"generated|trained",
    "Seconds by phase": r"seconds_.*",
    "Staleness": r"stale_versions.*",
    "Tools": r"turns|tool_calls|tool_error_rate|turn_limit_rate|environment_failure_rate",
    "Optimizer": r"grad_norm",
    "GPU memory of the learner, GiB": r"gpu_peak_gib|gpu_gib|gpu_reserved_gib",
    "Learning rate": r"lr",
}
"""A theme's metrics, by name: the whole name must match."""
STACKED = "Seconds by phase"


def stage_charts(results: RunResults) -> list[Chart]:
    """A chart for each theme of each stage that logged more than one step, theme after theme."""
    logged = {}
    for stage in results.stages:
        lines = read_metrics(results.run_dir / stage["name"] / "metrics.jsonl")
        if len(lines) > 1:
            logged[stage["name"]] = [_with_rates(line) for line in lines[:: max(1, math.ceil(len(lines) / POINTS))]]
    charts = (
        _chart(theme, pattern, stage, lines) for theme, pattern in THEMES.items() for stage, lines in logged.items()
    )
    return [chart for chart in charts if chart is not None]


def _with_rates(line: Mapping[str, Any]) -> dict[str, Any]:
    """A line of metrics with tokens a second, where both parts are there."""
    rates = {}
    for name, tokens, seconds in (
        ("generated", "generated_tokens", "seconds_generate"),
        ("trained", "tokens", "seconds_train"),
    ):
        if line.get(tokens) and line.get(seconds):
            rates[name] = line[tokens] / line[seconds]
    return {**line, **rates}


def _chart(theme: str, pattern: str, stage: str, lines: Sequence[Mapping[str, Any]]) -> Chart | None:
    names = [name for name in dict.fromkeys(name for line in lines for name in line) if re.fullmatch(pattern, name)]
    series = [{"name": name, "y": [_rounded(line.get(name)) for line in lines]} for name in names[:SERIES]]
    series = [one for one in series if any(value is not None for value in one["y"])]
    if not series or (theme == "Tools" and not any(any(one["y"]) for one in series)):
        return None
    chart: Chart = {"theme": theme, "title": stage, "unit": "step", "x": [line["step"] for line in lines]}
    return {**chart, "series": series, "stacked": theme == STACKED}


def budget_charts(results: RunResults) -> list[Chart]:
    """Accuracy by thinking budget (report, Figure 2), with the interval as a band."""
    curves: dict[tuple[str, str, str], list[tuple[int, float, float, float]]] = {}
    for row in results.rows:
        if (found := re.fullmatch(r"accuracy@(\d+)", row.metric)) and not math.isnan(row.value):
            point = (int(found[1]), row.value, row.low, row.high)
            curves.setdefault((row.stage, row.suite, row.mode), []).append(point)
    charts = []
    for (stage, suite, mode), points in curves.items():
        budgets, values, lows, highs = map(list, zip(*sorted(points), strict=True))
        series = [{"name": "accuracy", "y": values}, {"name": "low", "y": lows}, {"name": "high", "y": highs}]
        chart: Chart = {
            "theme": "Thinking budget",
            "title": f"{stage} · {suite} · {mode}",
            "unit": "tokens of thinking",
        }
        charts.append({**chart, "x": budgets, "series": series, "band": True, "stacked": False})
    return charts


def _rounded(value: Any) -> float | None:
    """Five digits are more than a pixel shows."""
    return float(f"{value:.5g}") if isinstance(value, int | float) and math.isfinite(value) else None
