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
from posttrain.pipelines.screen.tables import print_plan, print_results, print_status


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
def test_all_numbers_of_many_stages_can_be_read_at_any_width(width: int) -> None:
    rows = [
        Figure(stage=stage, suite=suite, mode="think", metric=metric, value=0.1 + i / 50, low=0.05, high=0.95, n=200)
        for i, stage in enumerate(STAGES)
        for suite in ("sums", "sums-greedy")
        for metric in ("accuracy", "think_format")
    ]
    lines = drawn(width, print_results, results_of(*rows))
    assert max(map(cell_len, lines)) <= width
    text = "\n".join(lines)
    assert "…" not in text
    for i, stage in enumerate(STAGES):
        assert stage in text
        assert text.count(f"{0.1 + i / 50:.3f}") == 4
    assert text.count("[0.05, 0.95]") == len(rows)


def test_few_stages_stand_side_by_side() -> None:
    rows = [Figure(stage=stage, suite="s", mode="m", metric="accuracy", value=0.5, low=0.4, high=0.6, n=9)
            for stage in STAGES[:2]]  # fmt: skip
    (line,) = [line for line in drawn(80, print_results, results_of(*rows)) if "accuracy" in line]
    assert line.count("0.500 [0.40, 0.60]") == 2


def test_trouble_that_there_was_none_of_goes_without_saying() -> None:
    fine = Figure(stage="base", suite="s", mode="m", metric="no_verdict", value=0.0, low=0.0, high=0.0, n=9)
    some = Figure(stage="rl", suite="t", mode="m", metric="no_verdict", value=0.25, low=0.0, high=0.5, n=9)
    text = "\n".join(drawn(80, print_results, results_of(fine, some)))
    assert ("0.250" in text, "0.000" in text) == (True, False)


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
