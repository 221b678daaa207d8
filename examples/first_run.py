"""A first run: a cold start, reinforcement learning, and an evaluation after each, with the packaged tiny model.

    python examples/first_run.py

It writes the run folder runs/first-run, which the other examples read. Run it again: every stage is reused.
"""

import posttrain

CHANGES = {
    "stages.demonstrations.prompts.0.n": 400,
    "stages.demonstrations.prompts.0.params": {"terms": [2, 3]},
    "stages.cold_start.steps": 60,
    "stages.cold_start.batch_size": 16,
    "stages.cold_start.optimizer.lr": 2e-3,
    "stages.reasoning_rl.steps": 4,
    "stages.reasoning_rl.prompts_per_step": 4,
    "stages.reasoning_rl.group_size": 4,
    "stages.reasoning_rl.sampling.max_tokens": 48,
    "evaluate.suites.0.prompts.0.n": 20,
    "evaluate.suites.0.sampling.max_tokens": 48,
    "logging.rollouts_every": 1,
}
"""Smaller than the packaged recipe, so that it takes less than a minute. The numbers are too small to learn much."""


def main() -> None:
    """Plan the packaged recipe `starter`, run it, and print what was measured."""
    for stage in posttrain.plan("starter", CHANGES, run_dir="runs/first-run").stages:
        print(f"{stage.name}: {stage.action}, {stage.why}")

    run = posttrain.run("starter", CHANGES, run_dir="runs/first-run", quiet=True)
    print(run.results[run.results.metric == "accuracy"].to_string(index=False))
    print("model:", run.model)
    print("report:", run.report)


if __name__ == "__main__":
    main()
