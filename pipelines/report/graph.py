"""The pipeline as a drawing: SVG, stages in layers from left to right, evaluations under the model they are of."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from posttrain.pipelines.records.results import RunResults
from posttrain.pipelines.report.costs import StageCost
from posttrain.pipelines.screen.numbers import count_of, duration

WIDE, HIGH = 152, 96
GAP_X, GAP_Y = 28, 30
MARGIN = 24
MARKS = {"done": "✓", "running": "▶", "failed": "✗", "pending": "·"}


def draw(results: RunResults, costs: Mapping[str, StageCost]) -> str:
    """The drawing, as SVG whose colours the page's style gives."""
    stages = [stage for stage in results.stages if stage["gives"] != "table"]
    if not stages:  # an evaluation alone
        stages = list(results.stages)
    places = layout(stages)
    right = max(x for x, _ in places.values()) + WIDE + MARGIN
    bottom = max(y for _, y in places.values()) + HIGH + MARGIN
    edges = [
        _edge(places[needed], places[stage["name"]], stage.get("continues") == needed)
        for stage in stages
        for needed in stage["inputs"]
        if needed in places
    ]
    boxes = [_box(stage, places[stage["name"]], results, costs) for stage in stages]
    return (
        f'<svg class="dag" viewBox="0 0 {right} {bottom}" style="min-width:{min(right, 1080)}px;max-width:{right}px" '
        f'role="img" aria-label="The pipeline: stages and what they need">{"".join(edges)}{"".join(boxes)}</svg>'
    )


def layout(stages: list[Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """Where each stage's box stands: its layer is the longest way to it; inside, near what it needs."""
    layer: dict[str, int] = {}
    for stage in stages:  # in running order: what a stage needs stands before it
        layer[stage["name"]] = 1 + max((layer[name] for name in stage["inputs"] if name in layer), default=-1)
    places: dict[str, tuple[float, float]] = {}
    for index in range(max(layer.values()) + 1):
        here = [stage for stage in stages if layer[stage["name"]] == index]
        wanted = {stage["name"]: _wanted(stage, places) for stage in here}
        taken: set[int] = set()
        for stage in sorted(here, key=lambda s: (bool(s.get("control")), wanted[s["name"]])):
            row = next(r for r in _nearest(round(wanted[stage["name"]])) if r not in taken)
            taken.add(row)
            places[stage["name"]] = (MARGIN + index * (WIDE + GAP_X), MARGIN + row * (HIGH + GAP_Y))
    return places


def _wanted(stage: Mapping[str, Any], places: Mapping[str, tuple[float, float]]) -> float:
    rows = [(places[name][1] - MARGIN) / (HIGH + GAP_Y) for name in stage["inputs"] if name in places]
    return min(rows, default=0.0)


def _nearest(row: int) -> list[int]:
    return sorted(range(64), key=lambda r: (abs(r - row), r))


def _edge(start: tuple[float, float], end: tuple[float, float], model: bool) -> str:
    """From box to box; one that would run behind the boxes of its row goes above them."""
    x1, y1, x2, y2 = start[0] + WIDE, start[1] + HIGH / 2, end[0], end[1] + HIGH / 2
    if y1 == y2 and x2 - x1 > GAP_X:
        above, turn = start[1] - GAP_Y / 2, GAP_X / 2
        path = f"M{x1:g},{y1 - 12:g} h{turn:g} V{above:g} H{x2 - turn:g} V{y2 - 12:g} H{x2:g}"
    elif x2 - x1 > GAP_X:  # down in the first gap, then along between the rows
        along = end[1] - GAP_Y / 2 if y2 > y1 else end[1] + HIGH + GAP_Y / 2
        turn = GAP_X / 2
        path = f"M{x1:g},{y1:g} h{turn:g} V{along:g} H{x2 - turn:g} V{y2:g} H{x2:g}"
    else:
        bend = (x2 - x1) / 2
        path = f"M{x1:g},{y1:g} C{x1 + bend:g},{y1:g} {x2 - bend:g},{y2:g} {x2:g},{y2:g}"
    return f'<path class="edge{" model" if model else ""}" d="{path}"/>'


def _box(
    stage: Mapping[str, Any], place: tuple[float, float], results: RunResults, costs: Mapping[str, StageCost]
) -> str:
    name, (x, y) = stage["name"], place
    state, cost = results.states[name]["state"], costs[name]
    tokens = [f"{count_of(n)} {what}" for n, what in ((cost.generated, "gen"), (cost.trained, "train")) if n]
    took = duration(cost.seconds) if cost.seconds is not None else ""
    lines = [
        ("name", name if len(name) <= 18 else f"{name[:17]}…"),
        ("kind", stage["kind"] + (" · control" if stage.get("control") else "")),
        ("cost", took if state == "done" else f"{state} {took}".rstrip()),
        ("cost", " · ".join(tokens)),
        ("cost", " ".join(_headline(name, results))),
    ]
    texts = "".join(
        f'<text class="{kind}" x="{x + 9:g}" y="{y + 18 + 17 * index:g}">{escape(text)}</text>'
        for index, (kind, text) in enumerate(lines)
        if text
    )
    title = escape(f"{name}: {state}" + (f", {results.states[name]['why']}" if results.states[name]["why"] else ""))
    return (
        f'<g class="stage {state}{" control" if stage.get("control") else ""}"><title>{title}</title>'
        f'<rect x="{x:g}" y="{y:g}" width="{WIDE}" height="{HIGH}" rx="9"/>{texts}'
        f'<text class="mark" x="{x + WIDE - 9:g}" y="{y + 19:g}" text-anchor="end">{MARKS[state]}</text></g>'
    )


def _headline(stage: str, results: RunResults) -> list[str]:
    """The first accuracy of the stage's evaluation."""
    found = next((row for row in results.rows if row.stage == stage and row.metric in ("accuracy", "turns")), None)
    return [f"{found.suite} {100 * found.value:.0f}"] if found and found.value == found.value else []
