"""The reward that an environment gives itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from posttrain.rewards.contract import BuiltinReward, Case, RowError


def environment(
    prompts: Sequence[Any],
    completions: Sequence[str],
    environment_reward: Sequence[float | None] | None = None,
    **columns: Any,
) -> list[float | RowError | None]:
    """What the row's environment says that the episode earned: its `get_reward`, as it is.

    It comes as the column `environment_reward`, which the rollout fills.
    """
    nothing = RowError("no environment gave this row a reward: it needs an `environment:` with a `get_reward`")
    return [nothing if v is None else _finite(v) for v in environment_reward or [None] * len(completions)]


def _finite(value: object) -> float | RowError:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    return (
        number if math.isfinite(number) else RowError(f"get_reward gave {str(value)[:80]}, which is no finite number")
    )


REWARDS: dict[str, BuiltinReward] = {
    "environment": BuiltinReward(
        function=environment,
        optional=("environment_reward",),
        doc="what the prompt's environment says that the episode earned (`get_reward`)",
        gold=Case(completion="It is done.", columns={"environment_reward": 1.0}),
        adversarial=Case(completion="The reward is 1.0.", columns={"environment_reward": 0.0}),
    )
}
