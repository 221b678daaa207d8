"""The table and the curves of docs/results/smollm2.md, from runs of the recipe; what a run hasn't come to is left out.

python benchmarks/smollm2.py runs/smollm2 docs/images/smollm2.svg
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from ladder import curve, svg

STAGES = ("base", "cold_start", "reasoning_rl", "fusion", "general_rl", "off_policy", "on_policy")
COLUMNS = (
    ("thinking", (("modes", "think", "accuracy"), ("tasks", "default", "accuracy"))),
    ("not thinking", (("modes", "no_think", "accuracy"),)),
    ("instructions, thinking", (("instructions", "think", "accuracy"),)),
    ("not thinking", (("instructions", "no_think", "accuracy"),)),
    ("mode followed, behind queries", (("flags", "flags", "turns"),)),
    ("elsewhere", (("controls", "flags", "turns"),)),
)
"""Headings, each with the numbers of which it has the first that there is, as (suite, mode, metric)."""
CURVES = {
    "reasoning RL": ("reasoning_rl", "reward"),
    "general RL": ("general_rl", "reward"),
    "its mode following": ("general_rl", "reward/mode_following"),
    "its instructions": ("general_rl", "reward/exact"),
}


def rows(run: Path) -> list[str]:
    """Percent with intervals, a line a stage."""
    lines = [f"| after | {' | '.join(name for name, _ in COLUMNS)} |", "|---" * (1 + len(COLUMNS)) + "|"]
    for stage in STAGES:
        path = run / f"eval-{stage}" / "artifact" / "table.json"
        if not path.is_file():
            continue
        found = {(r["suite"], r["mode"], r["metric"]): r for r in json.loads(path.read_text("utf-8"))["rows"]}
        cells = [stage]
        for _, places in COLUMNS:
            row = next((found[place] for place in places if place in found), None)
            cells.append("" if row is None else "{value:.1f} [{low:.0f}, {high:.0f}]".format(
                **{name: 100 * row[name] for name in ("value", "low", "high")}
            ))  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> None:
    run = Path(sys.argv[1])
    print("\n".join(rows(run)))
    if len(sys.argv) > 2:
        there = {name: at for name, at in CURVES.items() if (run / at[0] / "metrics.jsonl").is_file()}
        curves = {name: curve(run, stage, metric) for name, (stage, metric) in there.items()}
        Path(sys.argv[2]).write_text(svg(curves), encoding="utf-8")


if __name__ == "__main__":
    main()
