"""RL algorithms by name: what `algorithm:` sets in a `grpo` stage where the recipe doesn't. Each is data, not code.

Numbers are the papers' where they give them.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

Algorithm = Literal["grpo", "dapo", "dr_grpo", "lite_ppo", "gspo", "gspo_token", "cispo", "sapo", "scale_rl"]

ALGORITHMS: dict[str, dict[str, Any]] = {
    # DeepSeekMath, 2402.03300: one clip range, the mean of each completion's mean.
    "grpo": {"surrogate": "clip", "clip": [0.2, 0.2], "aggregate": "sequence", "scale_advantages": "group"},
    # DAPO, 2503.14476: clip-higher, token mean, dynamic sampling; soft overlong punishment is the reward overlong.
    "dapo": {
        "surrogate": "clip", "clip": [0.2, 0.28], "aggregate": "token", "scale_advantages": "group",
        "dynamic_sampling": {},
    },
    # Dr. GRPO, 2503.20783: no standard deviation, no length in the denominator.
    "dr_grpo": {"surrogate": "clip", "clip": [0.2, 0.2], "aggregate": "constant", "scale_advantages": "none"},
    # Lite PPO, 2508.08221: the group's mean, the batch's standard deviation, token mean.
    "lite_ppo": {"surrogate": "clip", "clip": [0.2, 0.2], "aggregate": "token", "scale_advantages": "batch"},
    # GSPO, 2507.18071, 5.1: the sequence's ratio, four minibatches a rollout batch.
    "gspo": {
        "surrogate": "gspo", "clip": [3e-4, 4e-4], "aggregate": "sequence", "scale_advantages": "group",
        "minibatches": 4,
    },
    "gspo_token": {
        "surrogate": "gspo_token", "clip": [3e-4, 4e-4], "aggregate": "sequence", "scale_advantages": "group",
        "minibatches": 4,
    },
    # MiniMax-M1, 2506.13585; the cap is ScaleRL's.
    "cispo": {"surrogate": "cispo", "cap": 5.0, "aggregate": "token", "scale_advantages": "group"},
    # SAPO, 2511.20347.
    "sapo": {"surrogate": "sapo", "tau": [1.0, 1.05], "aggregate": "sequence", "scale_advantages": "group"},
    # ScaleRL, 2510.13786: CISPO, prompt mean, batch-normalised advantages, easy prompts asked less, stale by at most 8.
    "scale_rl": {
        "surrogate": "cispo", "cap": 5.0, "aggregate": "prompt", "scale_advantages": "batch",
        "dynamic_sampling": {}, "difficulty": {"easy": 0.9}, "asynchronous": {"ahead": 4, "staleness": 8},
    },
}  # fmt: skip

assert set(ALGORITHMS) == set(get_args(Algorithm))
