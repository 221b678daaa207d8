"""A run as a piece of HTML for notebooks: the pipeline, the evaluation table, thresholds. No scripts."""

from __future__ import annotations

from html import escape

from posttrain.pipelines.records.results import RunResults
from posttrain.pipelines.report.costs import stage_costs
from posttrain.pipelines.report.graph import draw
from posttrain.pipelines.screen.matrix import EvaluationMatrix

_STYLE = """
.posttrain-run { --card: #fff; --ink: #1c2024; --soft: #667080; --line: #e2e4e8; --accent: #3b5bdb; --good: #2b8a3e;
  --bad: #c92a2a; background: var(--card); color: var(--ink); padding: .6rem; border-radius: 8px; overflow-x: auto }
.posttrain-run .dag text { font: 11px sans-serif; fill: var(--soft) }
.posttrain-run .dag .name { font-weight: 600; font-size: 12px; fill: var(--ink) }
.posttrain-run .dag rect { fill: var(--card); stroke: var(--line); stroke-width: 1.3 }
.posttrain-run .dag .done rect { stroke: var(--good) } .posttrain-run .dag .failed rect { stroke: var(--bad) }
.posttrain-run .dag .running rect { stroke: var(--accent) }
.posttrain-run .dag .control rect { stroke-dasharray: 4 3 }
.posttrain-run .edge { fill: none; stroke: var(--soft); stroke-width: 1.1; opacity: .5 }
.posttrain-run .edge.model { stroke: var(--accent); stroke-width: 2.2; opacity: .8 }
.posttrain-run table { color: inherit; border-collapse: collapse } .posttrain-run small { color: var(--soft) }
.posttrain-run td, .posttrain-run th { padding: .2rem .6rem; text-align: left; border-bottom: 1px solid var(--line) }
"""


def run_fragment(results: RunResults) -> str:
    """The HTML of a run: stages across, one row per suite, mode and metric; numbers with their intervals."""
    matrix = EvaluationMatrix.of(results.rows)
    parts = [f"<style>{_STYLE}</style><strong>{escape(results.recipe)}</strong>", draw(results, stage_costs(results))]
    if matrix.main:
        header = "".join(f"<th>{escape(name)}</th>" for name in ("suite", "mode", "metric", *matrix.stages))
        rows = []
        for column in matrix.main:
            cells = (matrix.cells.get((stage, column)) for stage in matrix.stages)
            numbers = "".join(
                f"<td>{escape(cell.text)} <small>{escape(cell.interval)}</small></td>" if cell else "<td></td>"
                for cell in cells
            )
            rows.append("<tr>" + "".join(f"<td>{escape(part)}</td>" for part in column) + numbers + "</tr>")
        parts.append(f"<table><thead><tr>{header}</tr></thead><tbody>{''.join(rows)}</tbody></table>")
    for verdict in results.verdicts:
        parts.append(f"<div>{escape(verdict.word)} {escape(verdict.text)}: {escape(verdict.detail)}</div>")
    return f'<div class="posttrain-run">{"".join(parts)}</div>'
