"""report.html: one file with its scripts and styles inside, so that it opens anywhere, and long after the run.

    run folder --results--> tables, --graph--> drawing, --curves, datasets--> charts, --rollouts--> browser --> one page

The page asks for nothing from the network, and its policy forbids that; scripts run only if their hash stands in the
policy, so that nothing a model wrote can run.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import time
from pathlib import Path
from typing import Any

from posttrain.folders import read_json, write_text
from posttrain.pipelines.records.ledger import reading
from posttrain.pipelines.records.logs import read_live
from posttrain.pipelines.records.results import RunResults
from posttrain.pipelines.report.costs import StageCost, stage_costs
from posttrain.pipelines.report.curves import budget_charts, stage_charts
from posttrain.pipelines.report.datasets import funnels, histograms
from posttrain.pipelines.report.graph import draw
from posttrain.pipelines.report.rollouts import sampled_rollouts
from posttrain.pipelines.screen.matrix import EvaluationMatrix
from posttrain.pipelines.screen.numbers import count_of, duration, main_metrics

DAMAGED = "see which of its files is damaged, and run its stage again with --force STAGE"
PAGE = Path(__file__).resolve().parent / "page"


def write_report(results: RunResults) -> Path:
    """Write report.html into the run folder and return its path. Raises InputError if its files can't be read."""
    path = results.run_dir / "report.html"
    with reading(results.run_dir, DAMAGED):
        page = render(results)
    write_text(path, page)
    return path


def render(results: RunResults) -> str:
    """The page for a run."""
    from markupsafe import Markup

    scripts = [_read("uPlot.iife.min.js"), _read("app.js")]
    costs = stage_costs(results)
    return _template().render(
        results=results,
        written=time.strftime("%Y-%m-%d %H:%M:%S"),
        running=[(name, read_live(results.run_dir / name)) for name in _running(results)],
        totals=_totals(results, costs),
        costs=costs,
        count=count_of,
        graph=Markup(draw(results, costs)),
        matrix=EvaluationMatrix.of(results.rows),
        funnels=funnels(results),
        histograms=histograms(results),
        about=_about(results),
        policy="; ".join(
            ["default-src 'none'", "style-src 'unsafe-inline'", f"script-src {' '.join(map(_hash, scripts))}"]
        ),
        scripts=[Markup(script) for script in scripts],
        styles=[Markup(_read("uPlot.min.css")), Markup(_read("style.css"))],
        data=Markup(_data(results)),
        duration=duration,
        main_metrics=main_metrics,
    )


def _data(results: RunResults) -> str:
    """What the page's script draws, as JSON that no text can break out of."""
    data = {
        "charts": [*budget_charts(results), *stage_charts(results)],
        "rollouts": sampled_rollouts(results),
    }
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _running(results: RunResults) -> list[str]:
    return [name for name, state in results.states.items() if state["state"] == "running"]


def _totals(results: RunResults, costs: dict[str, StageCost]) -> dict[str, Any]:
    states = [state["state"] for state in results.states.values()]
    return {
        "done": states.count("done"),
        "stages": len(states),
        "failed": [name for name, state in results.states.items() if state["state"] == "failed"],
        "seconds": sum(cost.seconds or 0.0 for cost in costs.values()),
        "generated": sum(cost.generated or 0 for cost in costs.values()),
        "trained": sum(cost.trained or 0 for cost in costs.values()),
    }


def _about(results: RunResults) -> dict[str, Any]:
    """Configuration, versions and machine, as the run wrote them down (references to secrets stay references)."""
    found = read_json(results.run_dir / "environment.json")
    packages = found.pop("packages", {})
    resolved = results.run_dir / "resolved.yaml"
    recipe = results.run_dir / "recipe.yaml"
    return {
        "packages": packages if isinstance(packages, dict) else {},
        "machine": {key: value for key, value in found.items() if isinstance(value, str | int | float)},
        "resolved": resolved.read_text("utf-8", "replace") if resolved.exists() else "",
        "recipe": recipe.read_text("utf-8", "replace") if recipe.exists() else "",
    }


@functools.cache
def _template() -> Any:
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_read("page.html"))


@functools.cache
def _read(name: str) -> str:
    return (PAGE / name).read_text("utf-8")


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
