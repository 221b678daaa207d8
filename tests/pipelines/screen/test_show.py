"""Lines on a terminal and in a pipe say what they say."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from posttrain.configs.load import load_recipe
from posttrain.pipelines.planning.plan import make_plan
from posttrain.pipelines.records.results import Figure, RunResults, read_results
from posttrain.pipelines.screen.tables import main_metrics_of, print_plan, print_results, print_status, result_notes


@pytest.mark.parametrize("name", ["flags", "fire", "[bold]"])
def test_a_name_between_colons_is_printed_as_it_is(name: str, tmp_path: Path) -> None:
    row = Figure(stage="rl", suite=name, mode="think", metric="turns", value=0.5, low=0.4, high=0.6, n=9)
    results = RunResults(run_dir=tmp_path, recipe="r", description="", stages=(), states={}, rows=(row,), verdicts=())
    out = io.StringIO()
    print_results(results, Console(file=out, width=200))
    assert out.getvalue() == f"rl:{name}:think:turns = 0.500 [0.40, 0.60] (n=9)\n"


STAGES = ("base", "cold_start", "reasoning_rl", "shuffled_rl", "fusion", "general_rl", "off_policy", "on_policy")


def drawn(width: int, draw: Any, *things: Any) -> list[str]:
    """What a terminal of that width is sent, colours aside."""
    out = io.StringIO()
    draw(*things, Console(file=out, force_terminal=True, color_system=None, width=width, emoji=False))
    return re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue()).splitlines()


def results_of(*rows: Figure) -> RunResults:
    return RunResults(run_dir=Path("run"), recipe="r", description="", stages=(), states={}, rows=rows, verdicts=())


@pytest.mark.parametrize("width", [80, 120, 160, 240])
def test_the_main_metric_of_every_suite_can_be_read_at_any_width(width: int) -> None:
    rows = [
        Figure(stage=stage, suite=suite, mode="think", metric=metric, value=0.1 + i / 50, low=0.05, high=0.95, n=200)
        for i, stage in enumerate(STAGES)
        for suite in ("sums", "sums-greedy", "flags", "controls", "budget")
        for metric in ("think_format", "accuracy", "tokens")
    ]
    lines = drawn(width, print_results, results_of(*rows))
    assert max(map(cell_len, lines)) <= width
    text = "\n".join(lines)
    assert "…" not in text
    for i, stage in enumerate(STAGES):
        assert stage in text
        assert text.count(f"{10 + 2 * i:.1f} [5, 95]") == 5
    assert "10 more metrics" in text
    assert len(lines) < 50


def test_stages_are_down_and_suites_across() -> None:
    rows = [
        Figure(stage=stage, suite=suite, mode="m", metric="accuracy", value=0.5, low=0.4, high=0.6, n=9)
        for stage in STAGES[:2]
        for suite in ("s", "t")
    ]
    lines = [line for line in drawn(80, print_results, results_of(*rows)) if "cold_start" in line or "base" in line]
    assert [line.count("50.0 [40, 60]") for line in lines] == [2, 2]


def test_a_suite_is_shown_by_accuracy_turns_or_its_largest_budget() -> None:
    def row(suite: str, metric: str) -> Figure:
        return Figure(stage="rl", suite=suite, mode="m", metric=metric, value=0.5, low=0.4, high=0.6, n=9)

    rows = [row("a", "tokens"), row("a", "accuracy"), row("b", "dialogues"), row("b", "turns")]
    rows += [row("c", f"accuracy@{budget}") for budget in (0, 8, 16)] + [row("d", "chrf")]
    assert main_metrics_of(rows) == [
        ("a", "m", "accuracy"), ("b", "m", "turns"), ("c", "m", "accuracy@16"), ("d", "m", "chrf"),
    ]  # fmt: skip


def test_completions_without_a_verdict_are_a_note_where_there_are_any() -> None:
    fine = Figure(stage="base", suite="s", mode="m", metric="no_verdict", value=0.0, low=0.0, high=0.0, n=9)
    some = Figure(stage="rl", suite="t", mode="m", metric="no_verdict", value=0.25, low=0.0, high=0.5, n=9)
    assert result_notes([fine, some]) == ["note: no_verdict in t (m): up to 25.0 % (rl)"]


@pytest.mark.parametrize("width", [60, 80, 160])
def test_plan_and_status_keep_within_the_terminal(runner: Any, width: int) -> None:
    plan = make_plan(load_recipe(runner.recipe), runner.run_dir)
    runner.run()
    lines = [*drawn(width, print_plan, plan, None), *drawn(width, print_status, read_results(runner.run_dir))]
    tables = [line for line in lines if line[:1] in "┏┃┡│└"]
    assert len(tables) > 20
    assert max(map(cell_len, tables)) <= width
    for stage in ("queries", "cold", "fusion"):
        assert [line for line in tables if stage in line]


def test_brackets_in_a_plan_are_no_markup(runner: Any) -> None:
    plan = make_plan(load_recipe(runner.recipe), runner.run_dir)
    plan = replace(plan, stages=tuple(replace(stage, why="[b]x[/b] [/y]") for stage in plan.stages))
    assert "[b]x[/b] [/y]" in "\n".join(drawn(200, print_plan, plan, None))
