"""What was dropped and why: counts a reason, in order, and every dropped row.

funnel.json: {"rows_in": 120, "steps": [{"reason": "duplicate", "dropped": 7, "left": 113}], "rows_out": 113}
dropped.parquet: id, prompt, reason, detail, one line a dropped row
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.stages.data.store import write_rows
from posttrain.types import Message, Prompt

FUNNEL, DROPPED = "funnel.json", "dropped.parquet"


class Funnel:
    """Counts rows in, and drops by reason, in the order in which reasons first come up or are announced."""

    def __init__(self, reasons: Sequence[str] = ()) -> None:
        self.rows_in = 0
        self.counts: dict[str, int] = dict.fromkeys(reasons, 0)

    def drop(self, reason: str, n: int = 1) -> None:
        """Count `n` rows dropped for `reason`."""
        self.counts[reason] = self.counts.get(reason, 0) + n

    @property
    def dropped(self) -> int:
        return sum(self.counts.values())

    @property
    def rows_out(self) -> int:
        return self.rows_in - self.dropped

    @property
    def reasons(self) -> dict[str, int]:
        """The reasons that dropped a row."""
        return {reason: count for reason, count in self.counts.items() if count}

    def to_json(self) -> dict[str, Any]:
        """See the module."""
        steps, left = [], self.rows_in
        for reason, count in self.reasons.items():
            left -= count
            steps.append({"reason": reason, "dropped": count, "left": left})
        return {"rows_in": self.rows_in, "steps": steps, "rows_out": left}

    def write(self, folder: Path) -> None:
        """Write funnel.json."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FUNNEL).write_text(json.dumps(self.to_json(), indent=1) + "\n", encoding="utf-8")

    def __str__(self) -> str:
        said = ", ".join(f"{count} {reason}" for reason, count in self.reasons.items())
        return f"{self.rows_out} of {self.rows_in}; dropped: {said or 'none'}"


def split_reason(verdict: str) -> tuple[str, str]:
    """A reason, which is counted, and its detail: `similar to a held-out item: gsm8k: a farmer ...`."""
    reason, _, detail = verdict.partition(": ")
    return reason, detail


def dropped_row(prompt: Prompt, verdict: str, **more: Any) -> dict[str, Any]:
    """A line of dropped.parquet."""
    reason, detail = split_reason(verdict)
    return {"id": prompt.id, "prompt": asked_text(prompt.messages), "reason": reason, "detail": detail, **more}


def write_dropped(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write dropped.parquet; nothing where nothing was dropped."""
    if rows:
        write_rows(folder, [dict(row) for row in rows], DROPPED)


def asked_text(messages: Sequence[Message]) -> str:
    """What the user and the system said, for a person to read."""
    return "\n".join(str(m.get("content") or "") for m in messages if m.get("role") in ("user", "system"))
