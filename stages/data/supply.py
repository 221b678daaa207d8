"""Prompts for RL, in an order that a resumed run repeats; hopeless and mastered ones may be asked less often."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from zlib import crc32

import numpy as np

from posttrain.configs.schema import Difficulty
from posttrain.stages.data.batch_schedule import BatchSchedule
from posttrain.types import Prompt

MOST_PASSED_OVER = 50
"""Times as many prompts as are wanted may be passed over; then the next ones are taken as they come."""


class PromptSupply:
    """Hands out prompts of weighted sources, one after another; what it gave and saw is its `state`.

    With `difficulty`, a prompt whose last pass rate was easy or hard is asked with chance `keep` when its turn comes:
    compute goes where a group's answers differ, and what was learned, or forgotten, is still noticed.
    """

    def __init__(
        self,
        sources: Sequence[Sequence[Prompt]],
        weights: Sequence[float],
        *,
        seed: int,
        difficulty: Difficulty | None = None,
    ) -> None:
        self._rows = BatchSchedule(sources, weights, size=1, seed=seed)
        self._seed, self._difficulty = seed, difficulty
        self._cursor = 0
        self._pass_rates: dict[str, float] = {}
        self._passed_over = 0

    def take(self, count: int) -> list[Prompt]:
        """The next `count` prompts."""
        found: list[Prompt] = []
        left = MOST_PASSED_OVER * count
        while len(found) < count:
            (prompt,) = self._rows.batch(self._cursor)
            self._cursor += 1
            if left and self._passes_over(prompt):
                left -= 1
                self._passed_over += 1
                continue
            found.append(prompt)
        return found

    def saw(self, prompt: str, pass_rate: float | None) -> None:
        """Remember how often the prompt of this id was solved; None: nobody could say."""
        if self._difficulty is not None and pass_rate is not None:
            self._pass_rates[prompt] = pass_rate

    def metrics(self) -> dict[str, float]:
        """How many prompts were passed over since the last call, and how many are known to be easy or hard."""
        if self._difficulty is None:
            return {}
        rates = np.array(list(self._pass_rates.values()) or [np.nan])
        found = {
            "pool_passed_over": float(self._passed_over),
            "pool_easy": float((rates >= self._difficulty.easy).mean()),
            "pool_hard": float((rates <= (0.0 if self._difficulty.hard is None else self._difficulty.hard)).mean()),
        }
        self._passed_over = 0
        return found

    @property
    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: plain JSON."""
        return {"cursor": self._cursor, "pass_rates": dict(self._pass_rates)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`."""
        self._cursor, self._pass_rates = int(state["cursor"]), dict(state["pass_rates"])

    def _passes_over(self, prompt: Prompt) -> bool:
        rule, rate = self._difficulty, self._pass_rates.get(prompt.id)
        if rule is None or rate is None:
            return False
        if rate < rule.easy and (rule.hard is None or rate > rule.hard):
            return False
        draw = np.random.default_rng((self._seed, crc32(prompt.id.encode()), self._cursor)).random()
        return bool(draw >= rule.keep)


def numbered(prompts: Sequence[Prompt], serial: int) -> tuple[list[Prompt], dict[str, str]]:
    """The prompts under ids of their own, and from each new id the old one.

    A small set may bring a prompt twice in one batch, and batches may be under way together: ids name samples.
    """
    count: dict[str, int] = {}
    renamed, origin = [], {}
    for prompt in prompts:
        times = count.get(prompt.id, 0)
        count[prompt.id] = times + 1
        name = prompt.id + (f"+{serial}" if serial else "") + (f".{times}" if times else "")
        renamed.append(replace(prompt, id=name))
        origin[name] = prompt.id
    return renamed, origin
