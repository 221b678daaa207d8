"""A small GRPO stage whose policy emits hostile programs, against the same stage with honest ones: seconds a step.

    python benchmarks/sandbox_stage.py [--cases FILE.py] [--steps N] [--timeout-s 1] [--prompts 8] [--group 8]

The model, its sampling and its training are real; only the text of what it sampled is replaced before it is scored:
every other completion of a group by the group's hostile program, the others by an honest one. In the honest run a plain
program that fails stands where the hostile one would (or one that passes, where that one does): both runs have as many
completions, of as many tokens, as many different programs to judge, and as much to learn from.

FILE.py defines CASES, a list of mappings with name, code, tests, entry and expect; without it, a few programs of our
own. All are emitted once if --steps isn't given. After the hostile run no reward may have gone to a program that was
expected to fail, and no process may be left.

What an attack costs at least is its own time limit: a step with an endless loop in it waits for --timeout-s seconds of
processor time. So the ratio depends on how long an honest step is: --prompts and --group make it longer.
"""

from __future__ import annotations

import argparse
import json
import runpy
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import psutil

TESTS = "assert add(1, 2) == 3\nassert add(-4, 9) == 5\nassert add(10**12, 1) == 10**12 + 1\n"
HONEST = "def add(a, b):\n    return a + b\n"
HARMLESS = {"pass": "def add(a, b):\n    return b + a\n", "fail": "def add(a, b):\n    return a - b\n"}
"""What the honest run has in the place of a hostile program, by what that one is expected to do: with the same rewards,
the learner has the same to learn from."""
OWN = {
    "equal": "class E:\n    def __eq__(s, o): return True\ndef add(a, b): return E()",
    "exit": "import os\ndef add(a, b): os._exit(0)",
    "loop": "while True: pass",
    "sleep": "import time\ndef add(a, b): time.sleep(10**6)",
    "memory": "def add(a, b):\n    k = []\n    while True: k.append(bytearray(b'x') * (16 << 20))",
    "fork": "import os\ndef add(a, b):\n    while True: os.fork()",
    "threads": "import threading, time\ndef add(a, b):\n    while True:\n"
    "        threading.Thread(target=time.sleep, args=(9,)).start()",
    "forge": "import os, struct\ndef add(a, b):\n    for fd in range(3, 64):\n"
    "        try: os.write(fd, struct.pack('!IBII?H', 12, 0, 3, 3, 0, 0))\n        except OSError: pass\n    return 0",
    "kill": "import os\ndef add(a, b): os.kill(os.getppid(), 9)",
    "segfault": "import ctypes\ndef add(a, b): ctypes.string_at(0)",
}
RECIPE = """name: stage
seed: 5
base: builtin:tiny
cluster:
  learner: {{workers: 1, zero: 1, threads: 1}}
  rollout: {{workers: 1, threads: 1}}
  sandbox: {{workers: 2, min_tier: C}}
logging: {{rollouts_every: 1}}
stages:
  rl:
    kind: grpo
    model: base
    prompts: prompts.jsonl
    rewards: [{{use: code, params: {{timeout_s: {timeout_s}}}}}]
    prompts_per_step: {prompts}
    group_size: {group}
    steps: {steps}
    optimizer: {{lr: 1.0e-4}}
    sampling: {{max_tokens: 128}}
"""


def run_stage(
    cases: Sequence[Mapping[str, Any]], options: argparse.Namespace, *, hostile: bool, steps: int, folder: Path
) -> Path:
    """Runs the stage in `folder`; its run folder. Raises RuntimeError if it fails."""
    from rich.console import Console

    from posttrain.configs.load import load_recipe
    from posttrain.pipelines.running.run import run_recipe
    from posttrain.stages.rollout.pool import RolloutPool

    programs = {c["name"]: c["code"] if hostile else HARMLESS.get(c["expect"], HARMLESS["pass"]) for c in cases}
    rows = [{"id": c["name"], "prompt": c["name"], "tests": c["tests"], "entry": c["entry"]} for c in cases]
    folder.mkdir()
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    sizes = {"prompts": options.prompts, "steps": steps, "timeout_s": options.timeout_s, "group": options.group}
    (folder / "recipe.yaml").write_text(RECIPE.format(**sizes))
    generate = RolloutPool.generate

    def emit(self: RolloutPool, *args: Any, **options: Any) -> Iterator[Any]:
        for group in generate(self, *args, **options):
            theirs = programs[group.prompt.id.partition("+")[0]]
            texts = [theirs if c.index % 2 else HONEST for c in group.completions]
            changed = [replace(c, text=fenced(t)) for c, t in zip(group.completions, texts, strict=True)]
            yield replace(group, completions=tuple(changed))

    with mock.patch.object(RolloutPool, "generate", emit):
        code = run_recipe(load_recipe(str(folder / "recipe.yaml")), folder / "run", console=Console(quiet=True))
    if code:
        told = (folder / "run" / "events.jsonl").read_text().splitlines()[-2:]
        raise RuntimeError(f"the stage ended with {code}: {told}")
    return folder / "run" / "rl"


def fenced(code: str) -> str:
    """The program as a model would write it, for the tests' sake in a fence that it can't close itself."""
    return f"~~~~~~~~python\n{code}\n~~~~~~~~\n"


def step_seconds(stage: Path) -> list[tuple[float, float]]:
    """Seconds that each step took, and those of sampling and scoring among them; the first step (which starts workers)
    left out.
    """
    lines = [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]
    names = ("seconds_generate", "seconds_train", "seconds_sync")
    return [(sum(line[name] for name in names), line["seconds_generate"]) for line in lines][1:]


def rewarded(stage: Path, cases: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of cases that were expected to fail and whose program got a reward."""
    from posttrain.stages.data.store import read_rows

    expected = {case["name"] for case in cases if case["expect"] == "fail"}
    rows = [row for path in sorted((stage / "rollouts").glob("*.parquet")) for row in read_rows(path)]
    return sorted({r["prompt"] for r in rows if r["index"] % 2 and r["prompt"] in expected and (r["score"] or 0) > 0})


def survivors() -> list[str]:
    """Command lines of this checkout's zygotes and rooms: a room has its zygote's."""
    from posttrain.sandbox.supervisor import BOOT

    lines = [p.info["cmdline"] or [] for p in psutil.process_iter(["cmdline"])]
    return [" ".join(line) for line in lines if str(BOOT) in line]


def main() -> int:
    """Runs both stages and compares; 1 if a hostile program was rewarded or outlived the run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cases", type=Path, help="a Python file that defines CASES")
    parser.add_argument("--steps", type=int, help="one more than all cases need, if not given")
    parser.add_argument("--timeout-s", type=float, default=1.0, help="processor time of a program")
    parser.add_argument("--prompts", type=int, default=8, help="a step")
    parser.add_argument("--group", type=int, default=8, help="completions of a prompt")
    options = parser.parse_args()
    own = [{"name": n, "code": c, "tests": TESTS, "entry": "add", "expect": "fail"} for n, c in OWN.items()]
    cases = runpy.run_path(str(options.cases))["CASES"] if options.cases else own
    steps = options.steps or 1 + -(-len(cases) // options.prompts)
    before = survivors()
    with tempfile.TemporaryDirectory() as root:
        stages = {
            kind: run_stage(cases, options, hostile=kind == "hostile", steps=steps, folder=Path(root, kind))
            for kind in ("honest", "hostile")
        }
        seconds = {kind: step_seconds(stage) for kind, stage in stages.items()}
        cheated = rewarded(stages["hostile"], cases)
        last = json.loads((stages["hostile"] / "metrics.jsonl").read_text().splitlines()[-1])
    left = [line for line in survivors() if line not in before]
    means = {kind: statistics.mean(whole for whole, _ in found) for kind, found in seconds.items()}
    for kind, found in seconds.items():
        scored = statistics.mean(part for _, part in found)
        longest = max(whole for whole, _ in found)
        print(f"{kind:8} {means[kind]:6.2f} s a step, {scored:.2f} of it sampling and scoring; longest {longest:.2f} s")
    print(f"ratio    {means['hostile'] / means['honest']:6.2f}  ({steps - 1} steps, limit {options.timeout_s:g} s)")
    print("last step:", {k: round(v, 3) for k, v in last.items() if k.startswith("sandbox/") and v})
    print(f"hostile programs rewarded: {cheated or 'none'}; left behind: {left or 'none'}")
    return int(bool(cheated or left))


if __name__ == "__main__":
    sys.exit(main())
