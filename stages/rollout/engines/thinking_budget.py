"""The thinking budget (report, 4.3): works on ids, never on text, so that a cut inside a character is harmless."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from posttrain.stages.models.chat import ChatFormat
from posttrain.types import Source


@dataclass(kw_only=True)
class ThinkingBudget:
    """Watches one sequence; says what to inject. Budget None never injects.

    The count starts behind `<think>`. Whoever closed the block in time, or never opened one, is left alone. A
    budget of 0 closes the block as soon as it's opened, with the empty block's own form.
    """

    budget: int | None
    open_id: int | None
    close_id: int | None
    early_stop: tuple[int, ...]
    empty: tuple[int, ...]
    closed_in_prompt: bool = False
    thought_from: int | None = None
    """How many ids stood before the thought's first one; None as long as no block is open."""
    read: int = 0
    """How many ids have been looked at."""
    spent: bool = False

    @classmethod
    def watch(cls, chat: ChatFormat, budget: int | None, prompt_ids: NDArray[np.int64]) -> ThinkingBudget:
        """A watcher for one sequence that continues `prompt_ids`."""
        tail = prompt_ids[-8:].tolist()
        opens = max((i for i, t in enumerate(tail) if t == chat.open_id), default=-1)
        closes = max((i for i, t in enumerate(tail) if t == chat.close_id), default=-1)
        return cls(
            budget=budget, open_id=chat.open_id, close_id=chat.close_id, early_stop=chat.early_stop,
            empty=chat.empty_block, closed_in_prompt=closes > opens, thought_from=0 if opens > closes else None,
        )  # fmt: skip

    def resume(self, ids: Sequence[int], sources: Sequence[int]) -> list[int]:
        """Take up a sequence that was interrupted; returns what of an injection is still to come."""
        if self.budget is None or Source.INJECTED not in sources:
            return []
        self.spent = True
        text = self.empty if self.budget == 0 else self.early_stop
        trailing = next((i for i, s in enumerate(reversed(sources)) if s != Source.INJECTED), len(sources))
        return list(text[trailing:]) if trailing else []

    def inject(self, ids: Sequence[int]) -> list[int]:
        """The ids to force next, given all ids so far; empty when the model may go on by itself.

        Asked again, it looks only at what is new.
        """
        if self.budget is None or self.spent or self.closed_in_prompt:
            return []
        new, start = ids[self.read :], self.read
        self.read = len(ids)
        if self.close_id in new:
            self.spent = True
            return []
        if self.thought_from is None and self.open_id in new:
            self.thought_from = start + list(new).index(self.open_id) + 1  # type: ignore[arg-type]
        if self.thought_from is None or len(ids) - self.thought_from < self.budget:
            return []
        self.spent = True
        return list(self.empty if self.budget == 0 else self.early_stop)
