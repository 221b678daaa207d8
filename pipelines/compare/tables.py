"""A comparison for people: tables on a terminal, one fact a line where nobody draws them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from posttrain.pipelines.compare import Comparison, Cost
from posttrain.pipelines.compare.numbers import ComparedNumber, why_not_paired
from posttrain.pipelines.compare.recipes import ABSENT, Difference, show_value
from posttrain.pipelines.records.results import NO_VERDICT
from posttrain.pipelines.report.costs import StageCost
from posttrain.pipelines.screen.matrix import QUIET
from posttrain.pipelines.screen.numbers import MAIN_METRICS, count_of, duration
from posttrain.pipelines.screen.terminal import print_line

_WIDE = 120
"""Columns from which a number and its interval stand side by side."""


_LONG = 100
"""Characters of a value of the recipe that are shown."""


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print what the recipes say differently, the numbers, the costs and the notes."""
    draw = console.is_terminal
    for side, run in (("A", comparison.a), ("B", comparison.b)):
        print_line(console, f"{side}: {run.run_dir} ({run.recipe})")
    if not comparison.recipe:
        print_line(console, "the recipes say the same")
    elif draw:
        console.print(_recipe_table(comparison.recipe))
    else:
        for one in comparison.recipe:
            print_line(console, f"recipe {one.path}: {_change(one)}{_aside(one)}")
    shown = [number for number in comparison.numbers if not _goes_without_saying(number)]
    if draw and shown:
        console.print(_numbers_table(shown, wide=console.width >= _WIDE))
    for number in () if draw else shown:
        name = ":".join((number.a.stage, number.a.suite, number.a.mode, number.a.metric))
        print_line(console, f"{name}: {number.a.text()} -> {number.b.text()}  {_in_words(number)}")
    for line in why_not_paired(shown):
        print_line(console, f"note: {line}")
    if draw:
        console.print(_costs_table(comparison.costs))
    for cost in () if draw else comparison.costs:
        print_line(console, f"cost {cost.stage}: {_cost(cost.a)} -> {_cost(cost.b)}")
        for name, (a, b) in _main(cost):
            print_line(console, f"metric {cost.stage}:{name}: {a} -> {b}")
    for note in comparison.notes:
        print_line(console, f"note: {note}")


def _goes_without_saying(number: ComparedNumber) -> bool:
    """Parts by task and domain (they are in the JSON), and shares of trouble that there was none of."""
    row = number.a
    return "/" in row.metric or (row.metric in QUIET and not row.value and not number.b.value)


def _recipe_table(recipe: Sequence[Difference]) -> Table:
    table = Table("recipe", "A", "B", title="what differs", title_justify="left")
    for one in recipe:
        style = "" if one.decides else "dim"
        table.add_row(*(Text(text, style) for text in (f"{one.path}{_aside(one)}", _short(one.a), _short(one.b))))
    return table


def _change(one: Difference) -> str:
    if one.b == ABSENT:
        return f"only in A: {_short(one.a)}"
    return f"only in B: {_short(one.b)}" if one.a == ABSENT else f"{_short(one.a)} -> {_short(one.b)}"


def _short(value: Any) -> str:
    """A value, of a whole suite or stage no more than what tells it apart; all of it is in the JSON."""
    text = show_value(value)
    return text if len(text) <= _LONG else f"{text[:_LONG]}..."


def _aside(one: Difference) -> str:
    return "" if one.decides else " (enters no key)"


def _numbers_table(numbers: Sequence[ComparedNumber], *, wide: bool) -> Table:
    table = Table("stage", "suite mode metric", "A", "B", "B - A", title="evaluation", title_justify="left")
    stage = ""
    for number in numbers:
        row, style = number.a, "bold" if number.clear else ""
        if stage and row.stage != stage:
            table.add_section()
        label = f"{row.suite} {row.mode} {row.metric}"
        between = " " if wide else "\n"
        cells = [*(side.text(between=between) for side in (row, number.b)), _in_words(number, between=between)]
        table.add_row(
            Text("" if row.stage == stage else row.stage), Text(label), *map(Text, cells[:2]), Text(cells[2], style)
        )  # fmt: skip
        stage = row.stage
    return table


def _in_words(number: ComparedNumber, *, between: str = " ") -> str:
    """`+0.055 (n=40) [+0.012, +0.098]`: over how many questions, with what it rests on where it isn't paired."""
    if number.basis == "suites differ":
        return number.basis
    if math.isnan(number.difference):
        return NO_VERDICT
    n = f" (n={number.questions})" if number.questions else ""
    interval = "" if math.isnan(number.low) else f"{between}[{number.low:+.3f}, {number.high:+.3f}]"
    basis = "" if number.basis == "paired" else f" {number.basis}"
    return f"{number.difference:+.3f}{n}{interval}{basis}"


def _costs_table(costs: Sequence[Cost]) -> Table:
    table = Table("stage", "", "A", "B", title="cost, and where training ended", title_justify="left")
    for cost in costs:
        lines = [("time", _time(cost.a), _time(cost.b))]
        for name, field in (("generated", "generated"), ("trained on", "trained")):
            counts = [count_of(getattr(side, field) or None) if side else "" for side in (cost.a, cost.b)]
            if any(counts):
                lines.append((f"tokens {name}", counts[0], counts[1]))
        lines += [(name, a, b) for name, (a, b) in _main(cost)]
        for at, line in enumerate(lines):
            table.add_row(*map(Text, ("" if at else cost.stage, *line)))
    return table


def _main(cost: Cost) -> list[tuple[str, tuple[str, str]]]:
    """The few metrics that people look at first; all of them are in the JSON."""
    return [(name, (_number(a), _number(b))) for name in MAIN_METRICS if name in cost.metrics
            for a, b in (cost.metrics[name],)]  # fmt: skip


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _time(cost: StageCost | None) -> str:
    return "not done" if cost is None else "?" if cost.seconds is None else duration(cost.seconds)


def _cost(cost: StageCost | None) -> str:
    if cost is None:
        return "not done"
    counts = ((cost.generated, "generated"), (cost.trained, "trained on"))
    tokens = [f"{count_of(count)} tokens {word}" for count, word in counts if count]
    return ", ".join([_time(cost), *tokens])
