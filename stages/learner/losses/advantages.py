"""Group-relative advantages: pure functions of rewards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

EPSILON = 1e-4  # TRL's; keeps a group of near-equal rewards from exploding


def group_advantages(
    rewards: Sequence[Sequence[float | None]], scale: Literal["group", "batch", "none"] = "group"
) -> list[NDArray[np.float64]]:
    """A = (r - group mean) / std, for each group (DeepSeekMath 2402.03300, 4.1.2).

    `group` divides by the group's sample std, `batch` by the batch's (Lite PPO, 2508.08221), `none` by 1
    (Dr. GRPO, 2503.20783). A reward of None (not applicable, infra error) leaves its group: advantage nan. A group
    with fewer than two rewards has no baseline: advantage 0.
    """
    groups = [np.array([np.nan if r is None else r for r in group], dtype=float) for group in rewards]
    everything = np.concatenate(groups) if groups else np.zeros(0)
    valid = everything[~np.isnan(everything)]
    batch_std = float(valid.std(ddof=1)) if len(valid) > 1 else 0.0
    result = []
    for group in groups:
        known = group[~np.isnan(group)]
        if len(known) < 2:
            result.append(np.where(np.isnan(group), np.nan, 0.0))
            continue
        centred = group - known.mean()
        std = {"group": float(known.std(ddof=1)), "batch": batch_std, "none": 1.0 - EPSILON}[scale]
        result.append(centred / (std + EPSILON))
    return result


def multi_reward_advantages(
    terms: Sequence[Sequence[Mapping[str, float] | None]], weights: Mapping[str, float]
) -> list[NDArray[np.float64]]:
    """GDPO (2601.05242, 3): each reward is normalised in its group, the weighted sum over rewards in the batch.

    Summed first, unlike mixtures of rewards with one sum would get one advantage, and a reward of small spread would
    drown in one of large spread. `terms`: each completion's rewards by name; None for one without a score, whose
    advantage is nan; a reward that doesn't apply to a completion adds nothing. It is TRL's `normalize_then_sum`.
    """
    if not any(map(len, terms)):
        return [np.zeros(0) for _ in terms]
    summed = []
    for group in terms:
        known = np.array([row is not None for row in group])
        table = np.array([[(row or {}).get(name, np.nan) for name in weights] for row in group], dtype=float)
        parts = [w * _standardised(column) for w, column in zip(weights.values(), table.T, strict=True)]
        summed.append(np.where(known, np.nansum(parts, axis=0), np.nan))
    ends = np.cumsum([len(group) for group in summed])[:-1]
    return np.split(_standardised(np.concatenate(summed)), ends)


def _standardised(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(value - mean) / (sample std + epsilon) over what isn't nan; 0 where there is only one."""
    known = values[~np.isnan(values)]
    if len(known) < 2:
        return np.where(np.isnan(values), np.nan, 0.0)
    return (values - known.mean()) / (known.std(ddof=1) + EPSILON)


def zero_variance(rewards: Sequence[Sequence[float | None]]) -> int:
    """How many groups carry no signal: all known rewards equal."""
    return sum(len({r for r in group if r is not None}) < 2 for group in rewards)
