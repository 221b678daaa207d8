"""Composes rewards: items in, one Score each out, in order.

value = sum of weight x reward over the rewards that apply      (no gate closed, nothing failed)
        0 where a gate says 0 or less
        none where any applicable reward failed (infra_error: the sample leaves its group)
        none where no reward applies (not_applicable)
"""

from __future__ import annotations

import math
import statistics
import threading
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from posttrain.configs.schema import RewardUse
from posttrain.errors import RewardError
from posttrain.rewards.base import applies, check_columns, row_columns
from posttrain.rewards.contract import CountingJudge, JudgeClient, ModelHost, RowError, Value
from posttrain.rewards.mixture.loader import split_path
from posttrain.rewards.mixture.members import Row, make_member
from posttrain.types import Completion, Prompt, Score

_GOLD = 200
"""Characters of a gold answer that are shown."""
MIN_ROWS = 20
"""An error rate over fewer rows says nothing..."""
ALL_FAILED = 4
"""... unless all failed, of this many prompts: a group fails as one where its prompt's row is bad..."""
MANY = 100
"""... or where there aren't so many prompts."""
_WINDOW = 500

__all__ = ["Scorer", "check_columns"]


class Scorer:
    """Scores completions with a mixture of rewards.

    `judge` runs the code of code rewards; the caller owns it. `models` holds the language models and classifiers that
    rewards ask; it is closed with the scorer. Processes start with the first call and end with `close`. Above
    `max_error_rate`, over at least 20 rows, or where all of 4 prompts failed, `score` raises RewardError with the first
    traceback.
    """

    def __init__(
        self,
        uses: Sequence[RewardUse],
        *,
        recipe_dir: Path,
        judge: JudgeClient | None = None,
        models: ModelHost | None = None,
        max_error_rate: float = 0.2,
    ) -> None:
        self._uses = tuple(uses)
        self._names = _names(self._uses)
        self.weights = {n: use.weight for n, use in zip(self._names, self._uses, strict=True) if not use.gate}
        """By name in a Score's terms."""
        self._max_error_rate = max_error_rate
        self._members = [make_member(use, recipe_dir, judge, models) for use in self._uses]
        self._judge, self._models = judge, models
        self._lock = threading.Lock()
        self._failed: deque[bool] = deque(maxlen=_WINDOW)
        self._prompts: set[str] = set()
        """The first that were scored, as many as ALL_FAILED."""
        self._first_error = ""

    def score(self, items: Sequence[tuple[Prompt, Completion]], *, step: int = 0) -> list[Score]:
        """One Score an item, in order; safe to call from several threads.

        `step` is what functions named by path read as `trainer_state.global_step`.
        Bounded: a reward takes at most four times its `timeout` over its rows. Raises RewardError.
        """
        rows = [Row(prompt=p, completion=c, columns={**row_columns(p), **c.outcome}) for p, c in items]
        failed = {i for i, row in enumerate(rows) if row.completion.failure}
        parts: list[dict[int, Value]] = [{} for _ in rows]
        for number, (use, member) in enumerate(zip(self._uses, self._members, strict=True)):
            wanted = [i for i, row in enumerate(rows) if applies(use, row.columns) and i not in failed]
            if not wanted:
                continue
            for i, value in zip(wanted, member.values([rows[i] for i in wanted], step), strict=True):
                parts[i][number] = value
        scores = [replace(self._compose(v, row), logged=row.logged) for v, row in zip(parts, rows, strict=True)]
        for i in failed:
            scores[i] = Score(value=None, status="infra_error", detail=rows[i].completion.failure)
        self._watch([row.prompt.id for row in rows], scores)
        return scores

    def metrics(self) -> dict[str, float]:
        """Since the last call: what the sandbox counted, as `sandbox/...`, what judges at endpoints counted, as
        `judge/...`, what completions did to their verifiers, as `verifier/...` (see `members.RoomMember`), and what
        rewards logged, as `logged/...`."""
        found: dict[str, float] = {}
        for prefix, source in (("sandbox", self._judge), ("judge", self._models)):
            counted: dict[str, float] = source.metrics() if isinstance(source, CountingJudge) else {}
            found |= {f"{prefix}/{name}": value for name, value in counted.items()}
        counts = sum((member.take_counts() for member in self._members), Counter[str]())
        found |= {f"verifier/{name}": float(count) for name, count in counts.items()}
        return found | {f"logged/{name}": value for name, value in self.take_metrics().items()}

    def take_metrics(self) -> dict[str, float]:
        """Means of what functions gave to `log_metric` since the last call, by name; what isn't finite left out."""
        logged: dict[str, list[float]] = {}
        for member in self._members:
            for name, values in member.take_metrics().items():
                logged.setdefault(name, []).extend(value for value in values if math.isfinite(value))
        return {name: statistics.fmean(values) for name, values in logged.items() if values}

    def close(self) -> None:
        """Ends all reward processes, and frees the models."""
        for member in self._members:
            member.close()
        if self._models is not None:
            self._models.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _compose(self, values: dict[int, Value], row: Row) -> Score:
        parts = {self._names[n]: None if isinstance(v, RowError) else v for n, v in values.items()}
        for number, value in values.items():
            if isinstance(value, RowError):
                detail = f"{self._names[number]}: {value.detail}"
                return Score(value=None, parts=parts, status="infra_error", detail=detail)
        counted = {n: v for n, v in values.items() if isinstance(v, int | float)}
        terms = {self._names[n]: float(v) for n, v in counted.items() if not self._uses[n].gate}
        if not terms:
            return Score(value=None, parts=parts, status="not_applicable", detail=self._why_none(values, row))
        closed = [self._names[n] for n, v in counted.items() if self._uses[n].gate and v <= 0]
        if closed:
            nothing = dict.fromkeys(terms, 0.0)
            detail = "; ".join([f"gate {closed[0]} is closed", *row.remarks])
            return Score(value=0.0, parts=parts, terms=nothing, detail=detail)
        value = sum(self.weights[name] * term for name, term in terms.items())
        return Score(value=float(value), parts=parts, terms=terms, detail="; ".join(row.remarks))

    def _why_none(self, values: dict[int, Value], row: Row) -> str:
        gold = row.columns.get("answer")
        for number, value in values.items():
            if value is None and gold is not None and self._uses[number].use == "math":  # it leaves nothing else open
                return f"{self._names[number]}: the gold answer {str(gold)[:_GOLD]!r} can't be parsed"
        return "no reward applies"

    def _watch(self, prompts: Sequence[str], scores: Sequence[Score]) -> None:
        with self._lock:
            for prompt, score in zip(prompts, scores, strict=True):
                if score.status == "not_applicable":
                    continue
                failed = score.status == "infra_error"
                self._failed.append(failed)
                if len(self._prompts) < ALL_FAILED:
                    self._prompts.add(prompt)
                if failed and not self._first_error:
                    self._first_error = f"prompt {prompt}: {score.detail}"
            rate = sum(self._failed) / max(1, len(self._failed))
            rows = len(self._failed)
            enough = rows >= MIN_ROWS if rate < 1 else len(self._prompts) >= ALL_FAILED or rows >= MANY
            if enough and rate > self._max_error_rate:
                raise RewardError(
                    f"{rate:.0%} of the last {len(self._failed)} completions couldn't be scored; the first failure:\n"
                    f"{self._first_error}",
                    where="rewards",
                    fix="fix the reward and run again: what is finished is kept",
                )


def _names(uses: Sequence[RewardUse]) -> list[str]:
    """What each reward is called in a Score's parts: built-in or attribute; from the second on with #2, #3."""
    names: list[str] = []
    for use in uses:
        parts = split_path(use.use)
        name, seen = parts[1] if parts else use.use, 2
        unique = name
        while unique in names:
            unique, seen = f"{name}#{seen}", seen + 1
        names.append(unique)
    return names
