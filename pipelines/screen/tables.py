"""Print plans, states and results: tables on a terminal, plain lines in a pipe."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from posttrain.pipelines.graph.rights import grouped, rights_of
from posttrain.pipelines.planning.estimate import Estimate
from posttrain.pipelines.planning.plan import Plan
from posttrain.pipelines.preflight.data_checks import DataRead
from posttrain.pipelines.records.results import NO_VERDICT, Figure, RunResults
from posttrain.pipelines.screen.matrix import COUNTS, QUIET, Column, columns
from posttrain.pipelines.screen.numbers import count_of, duration, main_metrics
from posttrain.pipelines.screen.terminal import print_line

_WIDE = 140


def print_plan(plan: Plan, data: DataRead | None, console: Console) -> None:
    """Print each stage with what will be done and why, the data that was read, and the warnings."""
    header: tuple[str, ...] = ("stage", "kind", "action", "why", "needs", "devices", "estimate")
    rows: list[tuple[str, ...]] = [
        (
            stage.name,
            stage.node.spec.kind,
            stage.action,
            stage.why,
            ", ".join(stage.node.inputs),
            stage.estimate.devices,
            _sizes(stage.estimate),
        )
        for stage in plan.due
    ]
    if console.is_terminal and console.width < _WIDE:  # devices are the cluster's, which the reader wrote
        header, rows = (*header[:5], header[6]), [(*row[:5], row[6]) for row in rows]
    _print_rows(console, header, rows)
    for source in data.sources if data else ():
        names, asked = ", ".join(source["columns"]), source.get("asked")
        read = f"{source['rows']} rows" + (f", not the {asked} that `n` asks for" if asked else "")
        print_line(console, f"data: {source['stage']} reads {source['from']}: {read} ({names})")
    for may, names in grouped(rights_of([stage.node for stage in plan.due])):
        print_line(console, f"rights: {names}: {may}")
    for warning in (*plan.warnings, *(data.notes if data else ())):
        print_line(console, f"note: {warning}")
    print_line(console, f"{len(plan.pending)} of {len(plan.due)} stages need work in {plan.run_dir}")


def print_status(results: RunResults, console: Console) -> None:
    """Print each stage's state and its main metrics."""
    rows = []
    for stage in results.stages:
        state = results.states[stage["name"]]
        took = duration(state["seconds"]) if state["seconds"] is not None else ""
        word = f"{state['state']}: {state['why']}" if state["why"] else state["state"]
        if live := state.get("live"):
            left = f", {duration(live['left'])} left" if live["left"] is not None else ""
            rate = f" ({live['rate']}{left})" if live["rate"] else ""
            word, took = f"running: {live['unit']} {live['done']}/{live['total']}{rate}", duration(live["seconds"])
        rows.append((stage["name"], stage["kind"], word, took, main_metrics(state["metrics"])))
    _print_rows(console, ("stage", "kind", "state", "time", "metrics"), rows)


def print_results(results: RunResults, console: Console) -> None:
    """Print the evaluation results, the overlap of held-out questions with the data, gates and thresholds.

    A terminal gets one compact table; a pipe gets one number per line, for grep.
    """
    rows = [row for row in results.rows if "/" not in row.metric]  # accuracy/algebra and similar are in the report
    if console.is_terminal and rows:
        for table in result_tables(rows, console.width):
            console.print(table)
        for note in result_notes(rows):
            print_line(console, note)
    else:
        for row in rows:
            name = f"{row.stage}:{row.suite}:{row.mode}:{row.metric}"
            print_line(console, f"{name} = {row.text()} (n={row.n})")
    for suite in results.overlaps:
        print_line(console, str(suite))
    for gate in results.gates:
        print_line(console, str(gate))
    for verdict in results.verdicts:
        about = f"  ({verdict.about})" if verdict.about else ""
        print_line(console, f"{verdict.word}  {verdict.text}: {verdict.detail}{about}")


def result_tables(rows: Sequence[Figure], width: int) -> list[Table]:
    """The main metric of every suite and mode: stages down, suites across, each number with its interval.

    One table where the columns fit into `width`; otherwise several, each with the stages.
    """
    stages = list(dict.fromkeys(row.stage for row in rows))
    main = main_metrics_of(rows)
    several = {suite for suite, _, _ in main if sum(other == suite for other, _, _ in main) > 1}
    cells = {(row.stage, row.suite, row.mode, row.metric): _percent(row) for row in rows}
    columns_ = []
    for suite, mode, metric in main:
        header = "\n".join(part for part in (suite, mode if suite in several else "", metric) if part)
        columns_.append([header, *(cells.get((stage, suite, mode, metric), "") for stage in stages)])
    names = ["stage", *stages]
    groups: list[list[list[str]]] = [[]]
    for column in columns_:
        if groups[-1] and _width([names, *groups[-1], column]) > width:
            groups.append([])
        groups[-1].append(column)
    tables = []
    for number, group in enumerate(groups):
        lines = list(zip(names, *group, strict=True))
        title = "evaluation, percent with 95 % intervals" if number == 0 else None
        table = Table(*map(escape, lines[0]), title=title, title_justify="left")
        for line in lines[1:]:
            table.add_row(*map(Text, line))
        tables.append(table)
    return tables


def main_metrics_of(rows: Sequence[Figure]) -> list[Column]:
    """The (suite, mode, metric) that stands for each suite and mode: accuracy, turns, or the first it has.

    Of accuracies by thinking budget, the largest budget.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for suite, mode, metric in columns(rows):
        found.setdefault((suite, mode), []).append(metric)
    return [(suite, mode, _main(metrics)) for (suite, mode), metrics in found.items()]


def _main(metrics: Sequence[str]) -> str:
    for name in ("accuracy", "turns"):
        if name in metrics:
            return name
    budgets = [metric for metric in metrics if metric.partition("@")[2].isdigit()]
    return max(budgets, key=lambda metric: int(metric.partition("@")[2]), default=metrics[0])


def _percent(row: Figure) -> str:
    """`81.2 [77, 85]`; other numbers stay as they are."""
    if math.isnan(row.value):
        return NO_VERDICT
    if not 0 <= row.value <= 1 or row.metric in COUNTS:
        return f"{row.value:.1f} [{row.low:.1f}, {row.high:.1f}]"
    return f"{100 * row.value:.1f} [{100 * row.low:.0f}, {100 * row.high:.0f}]"


def result_notes(rows: Sequence[Figure]) -> list[str]:
    """What the table leaves out: completions without a verdict or cut off, and the number of other metrics."""
    notes, main = [], set(main_metrics_of(rows))
    worst: dict[Column, Figure] = {}
    for row in rows:
        column = (row.suite, row.mode, row.metric)
        if row.metric in QUIET and row.value > 0 and (column not in worst or row.value > worst[column].value):
            worst[column] = row
    for (suite, mode, metric), row in worst.items():
        notes.append(f"note: {metric} in {suite} ({mode}): up to {100 * row.value:.1f} % ({row.stage})")
    others = {column for column in columns(rows) if column not in main and column[2] not in QUIET}
    if others:
        notes.append(f"{len(others)} more metrics are in report.html and in `posttrain report --json`")
    return notes


def _width(columns_: Sequence[Sequence[str]]) -> int:
    """The width of a table with these columns, borders included."""
    widest = [max(len(part) for text in column for part in text.split("\n")) for column in columns_]
    return sum(widest) + 3 * len(widest) + 1


def _print_rows(console: Console, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if console.is_terminal:
        table = Table(*header)
        for row in rows:
            table.add_row(*map(escape, row))
        console.print(table)
        return
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    for row in (header, *rows):
        padded = (text.ljust(width) for text, width in zip(row, widths, strict=True))
        print_line(console, "  ".join(padded).rstrip())


def _sizes(estimate: Estimate) -> str:
    parts = []
    if estimate.parameters is not None:
        parts.append(f"{count_of(estimate.parameters)} weights")
    if estimate.memory_gib is not None:
        parts.append(f"{estimate.memory_gib:.3g} GiB/rank")
    if estimate.disk_gib is not None:
        parts.append(f"{estimate.disk_gib:.3g} GiB disk")
    if estimate.tokens is not None:
        parts.append(f"<={count_of(estimate.tokens)} tokens")
    return ", ".join(parts)
