"""Build a recipe in Python: plain data with the keys of the YAML file, changed and checked like any other.

python examples/recipe_in_python.py
"""

import posttrain
from posttrain.errors import RecipeError

RECIPE = {
    "name": "two-rates",
    "base": "builtin:tiny-mini",
    "stages": {
        "demonstrations": {
            "kind": "sample",
            "model": "builtin:oracle",
            "prompts": {"from": "builtin:arithmetic", "n": 60, "params": {"terms": [2, 3]}},
            "filters": ["correct"],
        }
    },
}


def main() -> None:
    """Add one stage of supervised training per learning rate, look at the plan, run it, compare the losses."""
    rates = {"slow": 1e-4, "fast": 2e-3}
    for name, rate in rates.items():
        RECIPE["stages"][name] = {
            "kind": "sft",
            "model": "base",
            "data": "demonstrations",
            "steps": 8,
            "batch_size": 8,
            "optimizer": {"lr": rate},
        }
    for stage in posttrain.plan(RECIPE, run_dir="runs/two-rates", check=True).pending:
        print(stage.name, stage.action)

    run = posttrain.run(RECIPE, run_dir="runs/two-rates", quiet=True)
    for name, rate in rates.items():
        print(f"lr {rate:g}: loss {run.stages[name].metrics.loss.iloc[-1]:.3f}")

    try:
        posttrain.plan({**RECIPE, "stages": {"slow": {**RECIPE["stages"]["slow"], "stpes": 8}}})
    except RecipeError as error:
        print(error)


if __name__ == "__main__":
    main()
