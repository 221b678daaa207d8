"""Read a finished run: results, curves, and what the model wrote during training.

    python examples/read_run.py          # after examples/first_run.py

Everything is a pandas data frame, so filtering, plotting and exporting work as usual.
"""

import posttrain


def main() -> None:
    """Print a table of results, a training curve, and the best and the worst rollout of the last step."""
    run = posttrain.open_run("runs/first-run")
    shares = run.results[run.results.metric.isin(["accuracy", "think_format"])]
    print(shares.pivot_table(index=["suite", "metric"], columns="stage", values="value").round(3).to_string())

    rl = run.stages["reasoning_rl"]
    print(rl.metrics[["step", "reward", "entropy", "length"]].round(3).to_string(index=False))

    rollouts = rl.rollouts(rl.steps[-1]).sort_values("score")
    for place, row in (("worst", rollouts.iloc[0]), ("best", rollouts.iloc[-1])):
        print(f"{place}: score {row.score:.2f} for {row.prompt!r}: {row.text!r}")


if __name__ == "__main__":
    main()
