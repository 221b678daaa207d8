"""The reward that an environment gives itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from posttrain.rewards.contract import BuiltinReward, Case, RowError


def environment(
    prompts: Sequence[Any],
    completions: Sequence[str],
    environment_reward: Sequence[float | None] | None = None,
    **columns: Any,
) -> list[float | RowError | None]:
    """What the row's environment says that the episode earned: its `get_reward`, as it is."""
    nothing = RowError("no environment gave this row a reward: it needs an `environment:` with a `get_reward`")
    return [nothing if v is None else float(v) for v in environment_reward or [None] * len(completions)]


REWARDS: dict[str, BuiltinReward] = {
    "environment": BuiltinReward(
        function=environment,
        optional=("environment_reward",),
        doc="what the prompt's environment says that the episode earned (`get_reward`)",
        gold=Case(completion="It is done.", columns={"environment_reward": 1.0}),
        adversarial=Case(completion="The reward is 1.0.", columns={"environment_reward": 0.0}),
    )
}
