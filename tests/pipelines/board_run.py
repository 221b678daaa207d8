"""A run whose stages train nothing, in the terminal that it is started in; `rl` waits after its third step for a file.

    python board_run.py RECIPE RUN_DIR

Not a test: a process of its own, for `test_terminal.py` and `test_watching.py`.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from posttrain.configs.load import load_recipe
from posttrain.pipelines.running import overlap
from posttrain.pipelines.running.run import run_recipe
from posttrain.pipelines.screen.terminal import make_console
from posttrain.stages.context import StageContext, StageResult

STEPS = 6
METRICS = {"loss": 0.125, "reward": 0.731, "kl": 0.01, "entropy": 0.5, "generated_tokens": 4096.0, "seconds_step": 2.0}


def stage(context: StageContext) -> StageResult:
    context.progress.start(STEPS)
    for step in range(1, STEPS + 1):
        context.metrics.write(step, METRICS)
        context.progress.advance()
        while context.name == "rl" and step == 3 and not Path("go").exists():
            context.check_stop()
            time.sleep(0.05)
    (context.artifact_dir / "result.txt").write_text(context.name)
    if context.spec.kind == "evaluate":
        (context.artifact_dir / "table.json").write_text('{"rows": []}')
        return StageResult(kind="table")
    return StageResult(kind="model" if context.spec.kind in ("sft", "grpo") else "data", metrics={"loss": 0.125})


if __name__ == "__main__":
    overlap.TINY.clear()  # no base's corpus is made again at the end, for five seconds: no board shows what it held
    sys.exit(run_recipe(load_recipe(sys.argv[1]), Path(sys.argv[2]), console=make_console(), run_one=stage))
