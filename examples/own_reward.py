"""A reward of your own: try it on examples first, then train with it.

    python examples/own_reward.py        # after examples/first_run.py

A reward gets lists and returns one number per completion, or None where it does not apply.
"""

from pathlib import Path

import posttrain


def brevity(prompts, completions, **columns):
    """Short answers: 1 for an empty answer, 0 from 100 characters on. The think block does not count."""
    answers = [completion[-1]["content"].rpartition("</think>")[2] for completion in completions]
    return [max(0.0, 1 - len(answer.strip()) / 100) for answer in answers]


def main() -> None:
    """Score two completions, then run two steps of RL that reward right and short answers."""
    short, long = "<think>\n2+2=4\n</think>\n\n4", "<think>\n2+2=4\n</think>\n\n" + "The answer is four. " * 5
    scores = posttrain.score(brevity, prompt="2+2?", completion=[short, long])
    print("short:", scores[0].value, "long:", scores[1].value)

    recipe = {
        "name": "own-reward",
        "stages": {
            "rl": {
                "kind": "grpo",
                "model": str(posttrain.open_run("runs/first-run").stages["cold_start"].model.resolve()),
                "prompts": {"from": "builtin:arithmetic", "n": 50},
                "rewards": ["math", {"use": f"{Path(__file__).name}:brevity", "weight": 0.2}],
                "steps": 2,
                "prompts_per_step": 4,
                "group_size": 4,
                "sampling": {"max_tokens": 48},
            }
        },
    }
    run = posttrain.run(recipe, run_dir="runs/own-reward", recipe_dir=Path(__file__).parent, quiet=True)
    rollouts = run.stages["rl"].rollouts()
    print(rollouts[["prompt", "score", "reward/math", "reward/brevity"]].head().to_string(index=False))


if __name__ == "__main__":
    main()
