"""Plans, states and results for people: tables on a terminal, plain lines where nobody draws them."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from posttrain.pipelines.graph.rights import grouped, rights_of
from posttrain.pipelines.planning.estimate import Estimate
from posttrain.pipelines.planning.plan import Plan
from posttrain.pipelines.preflight.data_checks import DataRead
from posttrain.pipelines.records.results import Figure, RunResults
from posttrain.pipelines.screen.matrix import columns, goes_without_saying
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
    """Print the evaluation matrix, how far its questions are held out, and the thresholds."""
    rows = [row for row in results.rows if "/" not in row.metric]  # accuracy/algebra and its like: in the report
    if console.is_terminal and rows:
        console.print(_matrix([row for row in rows if not goes_without_saying(row, rows)], console.width))
    else:
        for row in rows:  # one number a line, which grep can find
            name = f"{row.stage}:{row.suite}:{row.mode}:{row.metric}"
            print_line(console, f"{name} = {row.text()} (n={row.n})")
    for suite in results.overlaps:
        print_line(console, str(suite))
    for gate in results.gates:
        print_line(console, str(gate))
    for verdict in results.verdicts:
        about = f"  ({verdict.about})" if verdict.about else ""
        print_line(console, f"{verdict.word}  {verdict.text}: {verdict.detail}{about}")


def _matrix(rows: Sequence[Figure], room: int) -> Table:
    """Stages across where they have room, with their intervals beside or below the numbers; else one number a row."""
    for between in (" ", "\n"):
        lines = _across(rows, between)
        if _width(lines) <= room:
            break
    else:
        lines = _down(rows)
    table = Table(*lines[0], title="evaluation", title_justify="left")
    for line in lines[1:]:
        table.add_row(*map(Text, line))
    return table


def _across(rows: Sequence[Figure], between: str) -> list[list[str]]:
    """A run has few stages and many results: stages across, results down."""
    stages = list(dict.fromkeys(row.stage for row in rows))
    cells = {(row.stage, row.suite, row.mode, row.metric): row.text(between=between) for row in rows}
    return [
        ["suite", "mode", "metric", *stages],
        *([*column, *(cells.get((stage, *column), "") for stage in stages)] for column in columns(rows)),
    ]


def _down(rows: Sequence[Figure]) -> list[list[str]]:
    lines, before = [["stage", "suite mode metric", "value", "n"]], ""
    for row in rows:
        stage = "" if row.stage == before else row.stage
        lines.append([stage, f"{row.suite} {row.mode} {row.metric}", row.text(), str(row.n)])
        before = row.stage
    return lines


def _width(lines: Sequence[Sequence[str]]) -> int:
    """What a table of these lines takes, with its borders."""
    widest = [max(len(part) for text in column for part in text.split("\n")) for column in zip(*lines, strict=True)]
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
