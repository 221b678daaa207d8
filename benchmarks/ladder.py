"""The rungs of a run of rl-ladder-tiny: held-out accuracy by seed and on average, and the curves as one SVG.

    posttrain run rl-ladder-tiny --run-dir runs/ladder && python benchmarks/ladder.py runs/ladder docs/images/ladder.svg

A curve is the mean over seeds of the training reward (its part `math`), smoothed over nine steps, over all that was
sampled. With dynamic sampling prompts without signal are asked too, so curves compare runs with the same prompts only
roughly; held-out accuracy is what counts.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

RUNGS = (
    "grpo",
    "clip_higher",
    "token_mean",
    "dynamic",
    "overlong",
    "ahead",
    "banded",
    "gentle",
    "gentle_ahead",
    "shuffled",
)
COLOURS = ("#4c78a8", "#72b7b2", "#54a24b", "#e45756", "#b279a2", "#f58518", "#9d755d", "#eeca3b", "#ff9da6", "#888888")
SEEDS = (1, 2, 3)
WIDTH, HEIGHT, LEFT, TOP = 720, 360, 50, 20


def table(run: Path, stage: str) -> dict[str, dict[str, Any]]:
    rows = json.loads((run / f"eval-{stage}" / "artifact" / "table.json").read_text("utf-8"))["rows"]
    return {row["metric"]: row for row in rows}


def curve(run: Path, stage: str, name: str, window: int = 9) -> list[float]:
    lines = [json.loads(x) for x in (run / stage / "metrics.jsonl").read_text("utf-8").splitlines()]
    values = [line.get(name) or 0.0 for line in lines]
    return [mean(values[max(0, i - window + 1) : i + 1]) for i in range(len(values))]


def svg(curves: dict[str, list[float]]) -> str:
    """Lines over steps, 0 to 1."""
    across = max(map(len, curves.values())) - 1
    right = WIDTH - 130

    def x(step: float) -> float:
        return LEFT + step / across * (right - LEFT)

    def y(value: float) -> float:
        return HEIGHT - 40 - value * (HEIGHT - 40 - TOP)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"',
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for tick in (0, 0.25, 0.5, 0.75, 1):
        parts.append(f'<line x1="{LEFT}" x2="{right}" y1="{y(tick)}" y2="{y(tick)}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(tick) + 4}" text-anchor="end">{tick}</text>')
    for tick in range(0, across + 1, 10):
        parts.append(f'<text x="{x(tick)}" y="{HEIGHT - 22}" text-anchor="middle">{tick}</text>')
    parts.append(f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 5}" text-anchor="middle">step</text>')
    ends = sorted((values[-1], name) for name, values in curves.items())
    labels: dict[str, float] = {}
    for value, name in ends:
        labels[name] = min(y(value), min(labels.values(), default=HEIGHT) - 14)
    for (name, values), colour in zip(curves.items(), COLOURS, strict=False):
        points = " ".join(f"{x(i):.1f},{y(v):.1f}" for i, v in enumerate(values))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{right + 6}" y="{labels[name] + 4:.1f}" fill="{colour}">{name}</text>')
    return "\n".join([*parts, "</svg>\n"])


def main() -> None:
    run = Path(sys.argv[1])
    start = table(run, "cold_start")
    print(f"cold start: {start['accuracy']['value']:.3f}, pass@4 {start['pass@4']['value']:.3f}\n")
    print("| rung | seed 1 | seed 2 | seed 3 | mean (sd) | pass@4 | entropy at the end |\n" + "|---" * 7 + "|")
    curves = {}
    for rung in (r for r in RUNGS if (run / f"{r}_1").is_dir()):
        tables = [table(run, f"{rung}_{seed}") for seed in SEEDS]
        values = [t["accuracy"]["value"] for t in tables]
        passed = mean(t["pass@4"]["value"] for t in tables)
        entropy = mean(curve(run, f"{rung}_{seed}", "entropy")[-1] for seed in SEEDS)
        curves[rung] = [
            mean(step) for step in zip(*(curve(run, f"{rung}_{s}", "reward/math") for s in SEEDS), strict=True)
        ]
        cells = " | ".join(f"{v:.3f}" for v in values)
        print(f"| {rung} | {cells} | {mean(values):.3f} ({stdev(values):.3f}) | {passed:.3f} | {entropy:.3f} |")
    if len(sys.argv) > 2:
        Path(sys.argv[2]).write_text(svg(curves), encoding="utf-8")


if __name__ == "__main__":
    main()
