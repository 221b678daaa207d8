"""report.html: one file with its scripts inside, so that it opens anywhere and long after the run."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from posttrain.pipelines.ledger import write_text
from posttrain.pipelines.live import duration, main_metrics, read_metrics
from posttrain.pipelines.results import Row, RunResults

_CURVES_A_STAGE = 12
_POINTS_A_CURVE = 2000

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ results.recipe }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: .5rem 0 1.5rem }
th, td { padding: .25rem .75rem; text-align: left }
th { border-bottom: 2px solid #d0d7de } td { border-bottom: 1px solid #eaeef2; vertical-align: top }
td small { color: #656d76 } .PASS { color: #1a7f37 } .FAIL { color: #cf222e; font-weight: 600 }
code { font-size: 90% }
</style></head><body>
<h1>{{ results.recipe }}</h1>
<p>{{ results.description }}</p>
<p>Written {{ written }} for <code>{{ results.run_dir }}</code>.</p>
<h2>Stages</h2>
<table><tr><th>stage<th>kind<th>needs<th>state<th>time<th>metrics<th>key</tr>
{% for stage in results.stages %}{% set state = results.states[stage.name] %}
<tr><td>{{ stage.name }}<td>{{ stage.kind }}<td>{{ stage.inputs | join(", ") }}
<td>{{ state.state }}{% if state.why %} <small>{{ state.why }}</small>{% endif %}
<td>{{ duration(state.seconds) if state.seconds is not none else "" }}<td>{{ main_metrics(state.metrics) }}
<td><code>{{ (state.key or "")[:8] }}</code></tr>
{% endfor %}</table>
{% if results.rows %}
<h2>Evaluation</h2>
<table><tr><th>suite<th>mode<th>metric{% for stage in evaluated %}<th>{{ stage }}{% endfor %}</tr>
{% for column in columns %}
<tr>{% for part in column %}<td>{{ part }}{% endfor %}
{% for stage in evaluated %}<td>{{ cells.get((stage,) + column, "") }}{% endfor %}</tr>
{% endfor %}</table>
<p><small>Brackets: 95 % interval, by question.</small></p>
{% endif %}
{% if results.overlaps %}
<h2>Held-out questions in training data</h2>
<table><tr><th>suite<th>questions<th>in the run's data<th>rows<th>in the base's corpus<th>documents<th>for example</tr>
{% for suite in results.overlaps %}
<tr><td>{{ suite.suite }}<td>{{ suite.questions }}<td>{{ suite.in_data }}<td>{{ suite.rows }}
{% if suite.in_corpus is none %}<td>not known<td>{% else %}<td>{{ suite.in_corpus }}<td>{{ suite.documents }}{% endif %}
<td>{{ suite.examples | join("; ") }}</tr>
{% endfor %}</table>
<p><small>Compared by content: a generator's key, else the words of the question.</small></p>
{% endif %}
{% if results.verdicts %}
<h2>Thresholds</h2>
<table><tr><th><th>check<th>found<th>about</tr>
{% for verdict in results.verdicts %}
<tr><td class="{{ verdict.word }}">{{ verdict.word }}<td><code>{{ verdict.text }}</code>
<td>{{ verdict.detail }}<td>{{ verdict.about }}</tr>
{% endfor %}</table>
{% endif %}
{% for name, figure in figures %}<h2>{{ name }}</h2>{{ figure | safe }}{% endfor %}
</body></html>
"""


def write_report(results: RunResults) -> Path:
    """Write report.html into the run folder and return its path."""
    path = results.run_dir / "report.html"
    write_text(path, render(results))
    return path


def columns(rows: Iterable[Row]) -> list[tuple[str, str, str]]:
    """The (suite, mode, metric) of all rows, in the order they first appear."""
    return list(dict.fromkeys((row.suite, row.mode, row.metric) for row in rows))


def cell(row: Row) -> str:
    """A number with its interval: `0.812 [0.77, 0.85]`."""
    return f"{row.value:.3f} [{row.low:.2f}, {row.high:.2f}]"


def render(results: RunResults) -> str:
    """The page for a run."""
    import jinja2

    return (
        jinja2.Environment(autoescape=True)
        .from_string(_PAGE)
        .render(
            results=results,
            written=time.strftime("%Y-%m-%d %H:%M"),
            evaluated=list(dict.fromkeys(row.stage for row in results.rows)),
            columns=columns(results.rows),
            cells={(row.stage, row.suite, row.mode, row.metric): cell(row) for row in results.rows},
            figures=_figures(results),
            duration=duration,
            main_metrics=main_metrics,
        )
    )


def _figures(results: RunResults) -> list[tuple[str, str]]:
    """A figure for each stage with metrics; the first one carries the script for all."""
    figures: list[tuple[str, str]] = []
    for stage in results.stages:
        lines = read_metrics(results.run_dir / stage["name"] / "metrics.jsonl")
        if len(lines) > 1:
            page = _figure(lines).to_html(full_html=False, include_plotlyjs=not figures)
            figures.append((stage["name"], page))
    return figures


def _figure(lines: list[dict[str, Any]]) -> Any:
    """Small curves side by side, one a metric."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    lines = lines[:: max(1, len(lines) // _POINTS_A_CURVE)]
    names = list(dict.fromkeys(name for line in lines for name in line if name != "step"))[:_CURVES_A_STAGE]
    across = min(3, len(names))
    down = -(-len(names) // across)
    figure = make_subplots(rows=down, cols=across, subplot_titles=names)
    for index, name in enumerate(names):
        points = [(line["step"], line.get(name)) for line in lines]
        steps, values = zip(*points, strict=True)
        curve = go.Scatter(x=steps, y=values, mode="lines", name=name, showlegend=False)
        figure.add_trace(curve, row=index // across + 1, col=index % across + 1)
    margin = {"l": 40, "r": 20, "t": 40, "b": 30}
    figure.update_layout(height=60 + 220 * down, margin=margin, template="plotly_white")
    return figure
