"""Generating while training against generating in between: steps an hour, and where the time of a step goes.

Runs the same `grpo` stage (same model, prompts, group size, tokens) by `posttrain run`, once a setting: synchronous
with each number of threads, asynchronous with each split of them. The first steps don't count. Seconds a step are the
sum of the phases that the stage writes: together they are all of its loop.

    python benchmarks/ahead.py --model runs/x/cold_start/artifact          # two CPU cores
    python benchmarks/ahead.py --gpus --shape 0.6b                         # learner and engine on a GPU each
    python benchmarks/ahead.py --model ... --threads 2 1 --code            # one setting in turn, programs to judge too

A random model (`--shape`) writes `--max-tokens` tokens always: no long tail, which is what ahead would hide best.

Not covered: learning (docs/results/rl-ladder.md has that of both), vLLM, several nodes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

SHAPES: dict[str, dict[str, Any]] = {
    "0.6b": {
        "hidden_size": 1024, "num_hidden_layers": 28, "intermediate_size": 3072, "num_attention_heads": 16,
        "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": True, "max_position_embeddings": 4096,
    },
}  # fmt: skip
PHASES = ("generate", "verify", "wait", "train", "sync")
SKIPPED = 2


def recipe(options: argparse.Namespace, setting: dict[str, Any]) -> dict[str, Any]:
    """One `grpo` stage on the machine parts of `setting`."""
    model: Any = options.model
    if options.shape:
        model = {"from": "builtin:tiny", "scratch": SHAPES[options.shape]}
    stage = {
        "kind": "grpo", "model": model, "rewards": ["math", {"use": "format", "gate": True}],
        "prompts": {"from": "builtin:arithmetic", "n": 2000, "params": {"terms": [3, 6]}},
        "prompts_per_step": options.prompts, "group_size": options.group, "minibatches": 2, "steps": options.steps,
        "optimizer": {"lr": 1e-6}, "sampling": {"max_tokens": options.max_tokens}, "micro_tokens": options.micro_tokens,
        "shuffle_rewards": bool(options.shape),
    }  # fmt: skip
    if options.code:
        mine = {"when": {"task": "math"}}
        stage["rewards"] = [{"use": "math", **mine}, {"use": "format", "gate": True, **mine}]
        stage["tasks"] = ["programs"]
    if setting["ahead"]:
        stage["asynchronous"] = {"ahead": 1, "staleness": 2}
    sandbox = {"sandbox": {"workers": 2}} if options.code else {}
    place = {"gpus": 1, "dtype": "bfloat16"} if options.gpus else {}
    return {
        "name": "ahead",
        "seed": 1,
        "cluster": {
            **sandbox,
            "learner": {"workers": 1, "zero": 1, "threads": setting["learner"], **place},
            "rollout": {"workers": 1, "threads": setting["rollout"], "batch": options.prompts * options.group, **place},
        },
        "logging": {"rollouts_every": 0},
        "stages": {"rl": stage},
    }


def run(options: argparse.Namespace, setting: dict[str, Any]) -> dict[str, float]:
    """Mean seconds of a step by phase, and tokens, of one setting."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(json.dumps(recipe(options, setting)), encoding="utf-8")
        log = Path(folder) / "log"
        with log.open("w") as out:
            command = [sys.executable, "-m", "posttrain", "run", str(path), "--run-dir", f"{folder}/run"]
            try:
                done = subprocess.run(
                    command, stdout=out, stderr=subprocess.STDOUT, timeout=options.timeout, check=False
                )
            except subprocess.TimeoutExpired:
                print(f"ended after {options.timeout} s; the steps until then count")
            else:
                if done.returncode:
                    sys.exit(log.read_text()[-3000:])
        lines = [json.loads(line) for line in Path(folder, "run/rl/metrics.jsonl").read_text("utf-8").splitlines()]
    kept = lines[SKIPPED:]
    if not kept:
        sys.exit(f"{len(lines)} steps were done, the first {SKIPPED} don't count: raise --timeout")
    found = {name: mean(line.get(f"seconds_{name}", 0.0) for line in kept) for name in PHASES}
    return found | {"tokens": mean(line["generated_tokens"] for line in kept), "step": sum(found.values())}


def settings(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Synchronous ones first: all threads for both, which take turns, then fewer; ahead: every split."""
    if options.threads:
        learner, rollout = options.threads
        return [{"ahead": False, "learner": learner, "rollout": rollout}]
    if options.gpus:
        return [{"ahead": a, "learner": None, "rollout": None} for a in (False, True)]
    both = [{"ahead": False, "learner": n, "rollout": m} for n in (1, 2) for m in (1, 2)]
    return both + [{"ahead": True, "learner": n, "rollout": m} for n, m in ((1, 1), (2, 1), (1, 2), (2, 2))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin:tiny")
    parser.add_argument("--shape", choices=SHAPES)
    parser.add_argument("--gpus", action="store_true")
    parser.add_argument("--threads", type=int, nargs=2, metavar=("LEARNER", "ROLLOUT"), help="one setting, in turn")
    parser.add_argument("--code", action="store_true", help="the task `programs` beside mathematics")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--micro-tokens", type=int, default=8192)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--timeout", type=int, default=900)
    options = parser.parse_args()
    print(f"{'':<28}{'step':>7}" + "".join(f"{name:>10}" for name in PHASES) + f"{'steps/h':>9}{'tokens/s':>10}")
    best: dict[bool, float] = {}
    for setting in settings(options):
        found = run(options, setting)
        name = "ahead" if setting["ahead"] else "in turn"
        threads = f" learner {setting['learner']}, rollout {setting['rollout']}" if setting["learner"] else ""
        row = f"{name + threads:<28}{found['step']:>7.2f}" + "".join(f"{found[p]:>10.2f}" for p in PHASES)
        print(f"{row}{3600 / found['step']:>9.0f}{found['tokens'] / found['step']:>10.0f}", flush=True)
        best[setting["ahead"]] = min(best.get(setting["ahead"], float("inf")), found["step"])
    if len(best) < 2:
        return
    print(f"best ahead against best in turn: {best[False] / best[True]:.2f} x")


if __name__ == "__main__":
    main()
