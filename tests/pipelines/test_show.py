"""Lines on a terminal and in a pipe say what they say."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from posttrain.pipelines.results import Row, RunResults
from posttrain.pipelines.show import print_results


@pytest.mark.parametrize("name", ["flags", "fire", "[bold]"])
def test_a_name_between_colons_is_printed_as_it_is(name: str, tmp_path: Path) -> None:
    row = Row(stage="rl", suite=name, mode="think", metric="turns", value=0.5, low=0.4, high=0.6, n=9)
    results = RunResults(run_dir=tmp_path, recipe="r", description="", stages=(), states={}, rows=(row,), verdicts=())
    out = io.StringIO()
    print_results(results, Console(file=out, width=200))
    assert out.getvalue() == f"rl:{name}:think:turns = 0.500 [0.40, 0.60] (n=9)\n"
