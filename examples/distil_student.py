"""Distil a teacher into a smaller student: first on the teacher's responses, then on its distribution.

python examples/distil_student.py    # after examples/first_run.py
"""

import json
from pathlib import Path

import posttrain


def main() -> None:
    """Use the model of the first run as the teacher, and the smaller packaged model as the student."""
    prompts = Path("runs/prompts.jsonl")
    rows = [{"prompt": f"What is {a}+{b}?"} for a in range(2, 10) for b in range(11, 15)]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))

    run = posttrain.distill(
        posttrain.open_run("runs/first-run").model,
        "builtin:tiny-mini",
        prompts,
        off_policy_steps=10,
        steps=2,
        max_tokens=32,
        run_dir="runs/distil",
        quiet=True,
    )
    for name in ("off_policy", "on_policy"):
        last = run.stages[name].metrics.iloc[-1]
        print(f"{name}: loss {last.loss:.3f} at step {last.step:g}")
    print("student:", run.model)
    print(posttrain.generate(run.model, "What is 2+11?", thinking=False, max_tokens=32))


if __name__ == "__main__":
    main()
