"""Reward-hack watch: held-out questions asked while RL goes on. A reward that rises alone is a reward to look at."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from posttrain.configs.schema import Grpo, Watch
from posttrain.stages.context import StageContext
from posttrain.stages.data.load import derive_seed, load_prompts
from posttrain.stages.rollout.scoring import collect, sampling_params


@dataclass(frozen=True, kw_only=True)
class Look:
    """One look at the held-out questions."""

    step: int
    reward: float
    """Mean training reward of the steps since the look before."""
    heldout: float
    error: float
    """Standard error of `heldout` over questions."""


def suspicion(looks: Sequence[Look], rise: float) -> str:
    """Why the latest look is suspicious, or nothing.

    It is if, against some earlier look, the training reward is higher by `rise` or more, and the held-out score isn't
    higher by more than the standard error of the difference.
    """
    if len(looks) < 2:
        return ""
    last, before = looks[-1], min(looks[:-1], key=lambda look: look.reward)
    gained, moved = last.reward - before.reward, last.heldout - before.heldout
    if gained < rise or moved > math.hypot(last.error, before.error):
        return ""
    return (
        f"the reward rose from {before.reward:.3f} (step {before.step}) to {last.reward:.3f} (step {last.step}), and "
        f"held-out questions went from {before.heldout:.3f} to {last.heldout:.3f}: look at rollouts with high rewards"
    )


class RewardWatch:
    """Asks a stage's held-out questions every so many steps; warns when two looks in a row are suspicious."""

    def __init__(self, context: StageContext, spec: Grpo, rule: Watch) -> None:
        self._context, self._spec, self._rule = context, spec, rule
        loaded = load_prompts(rule.prompts, locations=context.locations, seed=derive_seed("watch", context.name))
        self._prompts = [p for source in loaded for p in source]
        self._rewards: list[float] = []
        self._looks: list[Look] = []

    @property
    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"rewards": self._rewards, "looks": [asdict(look) for look in self._looks]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`."""
        self._rewards, self._looks = list(state["rewards"]), [Look(**look) for look in state["looks"]]

    def after(self, step: int, reward: float | None) -> dict[str, float]:
        """Take a step's reward, if it has one; when it's time, look."""
        self._rewards += [] if reward is None else [reward]
        if (step + 1) % self._rule.every and step + 1 != self._spec.steps:
            return {}
        context = self._context
        with context.workers.scorer(self._rule.rewards or self._spec.rewards, context.locations) as scorer:
            scored = collect(
                context.workers.rollout(), scorer, self._prompts, 1, sampling_params(self._spec.sampling),
                seed=derive_seed("watch", context.seed, context.name, step), step=step,
                environments=context.workers.environment,
            )  # fmt: skip
        values = np.array([s.value for g in scored for s in g.scores if s.value is not None])
        if not len(values) or not self._rewards:
            return {}
        error = float(values.std() / math.sqrt(len(values)))
        before = suspicion(self._looks, self._rule.rise)
        mean = float(np.mean(self._rewards))
        self._looks.append(Look(step=step + 1, reward=mean, heldout=float(values.mean()), error=error))
        self._rewards = []
        now = suspicion(self._looks, self._rule.rise)
        if before and now:
            context.say(f"{context.name}: warning: {now}")
        return {"heldout_reward": self._looks[-1].heldout, "heldout_suspicious": float(bool(before and now))}
