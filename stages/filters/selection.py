"""Which candidates of a query are kept: filters first, then the few that are wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from posttrain.stages.filters import Filter
from posttrain.types import Completion, Prompt, Score

Pick = Literal["shortest", "first", "best"]
SAME, OVER = "said before by another candidate", "not among the kept of its query"
EMPTY = "an empty response"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What became of a query's candidates: the kept in order, and the reason of every other one by its index."""

    kept: tuple[Completion, ...]
    dropped: Mapping[int, str] = field(default_factory=dict)


def choose(
    prompt: Prompt,
    candidates: Sequence[tuple[Completion, Score]],
    filters: Sequence[Filter],
    *,
    take: int,
    pick: Pick = "shortest",
) -> Choice:
    """The `take` candidates that pass every filter: the shortest, the first sampled, or the best scored (of equals the
    shortest). The same text counts once, and none isn't kept: nothing is learnt from it.
    """
    passed: list[tuple[Completion, Score]] = []
    dropped: dict[int, str] = {}
    for completion, score in candidates:
        reason = "not answered: " + completion.failure if completion.failure else None
        reason = reason or next((r for f in filters if (r := f(prompt, completion, score))), None)
        if reason is None and not completion.last_turn.strip():
            reason = EMPTY
        if reason is None and completion.text in [c.text for c, _ in passed]:
            reason = SAME
        if reason is not None:
            dropped[completion.index] = reason
        else:
            passed.append((completion, score))
    order = {
        "shortest": lambda item: (len(item[0].token_ids) or len(item[0].text), item[0].index),
        "first": lambda item: item[0].index,
        "best": lambda item: (-(item[1].value or 0.0), len(item[0].token_ids) or len(item[0].text), item[0].index),
    }[pick]
    passed.sort(key=order)
    dropped |= {completion.index: OVER for completion, _ in passed[take:]}
    return Choice(kept=tuple(completion for completion, _ in passed[:take]), dropped=dropped)
