"""The report's Table 21 from a run of table21-tiny: pass@1 and pass@64 against compute, by seed and on average.

    posttrain run table21-tiny --run-dir runs/table21-tiny && python benchmarks/table21.py runs/table21-tiny

Compute is counted in FLOPs, with N parameters of the student and M of the teacher: 2N a sampled token, 6N a trained
token (a prompt that several samples share counts once, as it is computed), 2N a token that is scored again (RL's second
minibatch), 2M a token that the teacher scores. Seconds are the
stages' own, on whatever machine it was. RL's compute counts until its held-out accuracy first is what it ends
with (means of three looks in a row); the whole of it stands beside that.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import mean
from typing import Any

WINDOW = 3
PHASES = ("off_policy", "more_off_policy", "rl", "on_policy")


def manifest(run: Path, stage: str) -> dict[str, Any]:
    return json.loads((run / stage / "artifact" / "manifest.json").read_text("utf-8"))


def lines(run: Path, stage: str) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / stage / "metrics.jsonl").read_text("utf-8").splitlines()]


def scores(run: Path, stage: str) -> dict[str, dict[str, float]]:
    rows = json.loads((run / f"eval-{stage}" / "artifact" / "table.json").read_text("utf-8"))["rows"]
    return {row["metric"]: row for row in rows if row["suite"] == "sums"}


def compute(run: Path, stage: str, kind: str, teacher: float) -> dict[str, float]:
    """FLOPs, sampled tokens and seconds of a stage; for RL also those until it first was as good as in the end."""
    steps, found = lines(run, stage), manifest(run, stage)
    size = found["metrics"]["parameters"]
    trained = [line["packed_tokens"] for line in steps]
    sampled = [line.get("generated_tokens", 0.0) for line in steps]
    extra = {"rl": 2 * size * 0.5, "on_policy": 2 * teacher}.get(kind, 0.0)
    flops = [2 * size * s + (6 * size + extra) * t for s, t in zip(sampled, trained, strict=True)]
    result = {"flops": sum(flops), "sampled": sum(sampled), "seconds": float(found["seconds"])}
    looks = [(i, line["heldout_reward"]) for i, line in enumerate(steps) if "heldout_reward" in line]
    if looks:
        values = [value for _, value in looks]
        smooth = [mean(values[max(0, i - WINDOW + 1) : i + 1]) for i in range(len(values))]
        first = looks[next(i for i, value in enumerate(smooth) if i >= WINDOW - 1 and value >= smooth[-1])][0]
        result |= {"flops_until": sum(flops[: first + 1]), "sampled_until": sum(sampled[: first + 1])}
    return result


def main() -> None:
    run = Path(sys.argv[1])
    teacher = manifest(run, "teacher")["metrics"]["parameters"]
    found = scores(run, "teacher")
    print(f"teacher: pass@1 {found['accuracy']['value']:.3f}, pass@64 {found['pass@64']['value']:.3f}\n")
    print("| | seed | pass@1 | pass@64 | GFLOP | until final | sampled tokens | seconds |")
    print("|---" * 8 + "|")
    averages = {}
    for kind in PHASES:
        rows = []
        for seed in (1, 2, 3):
            stage = f"{kind}_{seed}"
            got, cost = scores(run, stage), compute(run, stage, kind, teacher)
            rows.append((got["accuracy"]["value"], got["pass@64"]["value"], cost))
            cells = [
                f"{got[m]['value']:.3f} [{got[m]['low']:.2f}, {got[m]['high']:.2f}]" for m in ("accuracy", "pass@64")
            ]
            until = f"{cost['flops_until'] / 1e9:.0f}" if "flops_until" in cost else ""
            print(
                f"| {kind} | {seed} | {cells[0]} | {cells[1]} | {cost['flops'] / 1e9:.0f} | {until} | "
                f"{cost['sampled']:.0f} | {cost['seconds']:.0f} |"
            )
        averages[kind] = rows
    print()
    for kind, rows in averages.items():
        costs = [r[2] for r in rows]
        whole, first = mean(c["flops"] for c in costs), mean(c.get("flops_until", c["flops"]) for c in costs)
        print(
            f"{kind:<16} pass@1 {mean(r[0] for r in rows):.3f}  pass@64 {mean(r[1] for r in rows):.3f}  "
            f"{whole / 1e9:.0f} GFLOP, {first / 1e9:.0f} until as good as in the end, "
            f"{mean(c['sampled'] for c in costs):.0f} tokens sampled, {mean(c['seconds'] for c in costs):.0f} s"
        )
    spent = mean(r[2]["flops"] for r in averages["on_policy"])
    for name, key in (("until it was as good as in the end", "flops_until"), ("in all", "flops")):
        share = spent / mean(r[2][key] for r in averages["rl"])
        print(f"on-policy distillation took {share:.3f} of the compute that RL took {name}")


if __name__ == "__main__":
    main()
