"""The end of a run, for people: a table on the console and a report.html that needs no network."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from posttrain.pipelines.ledger import write_text
from posttrain.pipelines.live import duration, main_metrics
from posttrain.pipelines.results import Row, RunResults


def print_results(results: RunResults, console: Console) -> None:
    """Print the evaluation matrix and the thresholds."""
    if results.rows:
        if console.is_terminal:
            console.print(_matrix(results))
        else:
            for line in matrix_lines(results):
                console.print(line, markup=False, highlight=False, soft_wrap=True)
    for verdict in results.verdicts:
        about = f"  ({verdict.about})" if verdict.about else ""
        console.print(
            f"{verdict.word}  {verdict.text}: {verdict.detail}{about}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def print_status(results: RunResults, console: Console) -> None:
    """Print each stage's state and its main metrics."""
    table = Table("stage", "kind", "state", "time", "metrics", box=None, pad_edge=False)
    for stage in results.stages:
        state = results.states[stage["name"]]
        took = duration(state["seconds"]) if state["seconds"] is not None else ""
        word = f"{state['state']}: {state['why']}" if state["why"] else state["state"]
        table.add_row(stage["name"], stage["kind"], word, took, main_metrics(state["metrics"]))
    console.print(table)


def matrix_lines(results: RunResults) -> list[str]:
    """The evaluation matrix as plain lines: one number a line, which grep can find."""
    return [f"{row.stage}:{row.suite}:{row.mode}:{row.metric} = {cell(row)} (n={row.n})" for row in results.rows]


def columns(rows: Iterable[Row]) -> list[tuple[str, str, str]]:
    """The (suite, mode, metric) of all rows, in the order they first appear."""
    return list(dict.fromkeys((row.suite, row.mode, row.metric) for row in rows))


def cell(row: Row) -> str:
    """A number with its interval: `0.812 [0.77, 0.85]`."""
    return f"{row.value:.3f} [{row.low:.2f}, {row.high:.2f}]"


def write_report(results: RunResults) -> Path:
    """Write report.html into the run folder and return its path."""
    from posttrain.pipelines.html import render

    path = results.run_dir / "report.html"
    write_text(path, render(results))
    return path


def _matrix(results: RunResults) -> Table:
    """Stages across, results down: a run has few stages and many results."""
    stages = list(dict.fromkeys(row.stage for row in results.rows))
    table = Table("suite", "mode", "metric", *stages, title="evaluation", title_justify="left")
    cells = {(row.stage, row.suite, row.mode, row.metric): cell(row) for row in results.rows}
    for suite, mode, metric in columns(results.rows):
        values = (cells.get((stage, suite, mode, metric), "") for stage in stages)
        table.add_row(suite, mode, metric, *values)
    return table
