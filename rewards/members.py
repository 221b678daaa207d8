"""One reward of a mixture, ready to judge rows: a built-in, or a function in a worker of its own."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from posttrain.configs.schema import RewardUse
from posttrain.errors import InputError, RewardError
from posttrain.rewards.asked import MODEL_FIELDS
from posttrain.rewards.base import BUILTINS, check_use
from posttrain.rewards.contract import BuiltinReward, JudgeClient, ModelHost, RowError, call_arguments
from posttrain.rewards.loader import split_path
from posttrain.rewards.math import Symbolic
from posttrain.rewards.tools import OPEN
from posttrain.rewards.workers import LoadFailed, Service, WorkerProcess, call_rows
from posttrain.thinking import answer_of
from posttrain.types import Completion, Prompt

Value = float | None | RowError


@dataclass(frozen=True, kw_only=True)
class Row:
    """A completion with its prompt, and the prompt's columns as rewards see them."""

    prompt: Prompt
    completion: Completion
    columns: Mapping[str, Any]
    logged: dict[str, str] = field(default_factory=dict)
    """What rewards gave to `log_extra` for this row, by column: filled while they judge."""


class Member(Protocol):
    """Judges rows; thread-safe."""

    def values(self, rows: Sequence[Row], step: int = 0) -> list[Value]:
        """One value a row, in order. Raises RewardError if the reward can't be loaded at all."""
        ...

    def take_metrics(self) -> dict[str, list[float]]:
        """What the reward has logged since the last call, by name."""
        ...

    def close(self) -> None:
        """Ends its processes."""
        ...


def make_member(use: RewardUse, recipe_dir: Path, judge: JudgeClient | None, models: ModelHost | None = None) -> Member:
    """Raises InputError if there is no such reward, or it needs a sandbox or a model and there is none."""
    check_use(use, recipe_dir)
    if split_path(use.use):
        return FunctionMember(use, recipe_dir)
    builtin = BUILTINS[use.use]
    if builtin.needs == "judge" and judge is None:
        raise InputError(f"reward {use.use!r} needs a sandbox, and none was given", where="rewards")
    if builtin.needs in MODEL_FIELDS and models is None:
        raise InputError(f"reward {use.use!r} asks a model, and nothing was given that holds one", where="rewards")
    return WorkerMember(use, builtin) if builtin.needs == "worker" else BuiltinMember(use, builtin, judge, models)


def _text(row: Row, sees: str) -> str:
    said = row.completion.last_turn
    if sees == "answer" and row.completion.turns and OPEN in answer_of(said):
        return ""  # it ran out of turns, or of tokens, while it still asked its tools: that is no answer yet
    return said if sees == "completion" else answer_of(said)


def _column(row: Row, name: str) -> Any:
    """A column of the row; where it has none of that name, what the completion itself says: `tokens`, `finish_reason`.

    A completion without tokens (one that a command is given as text) says neither.
    """
    found = row.columns.get(name)
    if found is not None or name not in ("tokens", "finish_reason") or not len(row.completion.token_ids):
        return found
    return row.completion.spoken if name == "tokens" else row.completion.finish_reason


def _loaded(error: LoadFailed, use: RewardUse) -> RewardError:
    return RewardError(f"reward {use.use!r} can't be loaded:\n{error}", where="rewards")


class BuiltinMember:
    """A built-in that runs in the caller: our own code, bounded on any text, and what it asks is bounded too."""

    def __init__(
        self, use: RewardUse, builtin: BuiltinReward, judge: JudgeClient | None, models: ModelHost | None
    ) -> None:
        self._use, self._function = use, builtin.function
        self._sees = use.sees or builtin.sees
        self._reads = builtin.columns + builtin.optional
        self._handed: dict[str, Any] = {}
        self._symbolic: Symbolic | None = None
        if builtin.needs == "judge":
            self._handed["judge"] = judge
        elif builtin.needs == "math":
            self._symbolic = self._handed["symbolic"] = Symbolic()
        elif models is not None and use.judge is not None:
            self._handed["chat"] = models.chat(use.judge, use.timeout)
        elif models is not None and use.model is not None:
            self._handed["reward_model"] = models.reward_model(use.model, use.timeout)

    def values(self, rows: Sequence[Row], step: int = 0) -> list[Value]:
        """See Member."""
        columns = {name: [_column(r, name) for r in rows] for name in self._reads}
        return list(
            self._function(
                [r.prompt.messages for r in rows],
                [_text(r, self._sees) for r in rows],
                **{**columns, **self._use.params, **self._handed},
            )
        )

    def take_metrics(self) -> dict[str, list[float]]:
        """See Member."""
        return {}

    def close(self) -> None:
        """See Member."""
        if self._symbolic is not None:
            self._symbolic.close()


class WorkerMember:
    """A built-in that gets a process of its own: it could run for ever."""

    def __init__(self, use: RewardUse, builtin: BuiltinReward) -> None:
        reads = builtin.columns + builtin.optional
        self._set(use, use.sees or builtin.sees, reads, attribute="BuiltinCall", arguments=(use.use,))

    def _set(
        self, use: RewardUse, sees: str, reads: tuple[str, ...] | None, *, attribute: str, arguments: tuple[str, ...]
    ) -> None:
        self._use, self._sees, self._reads = use, sees, reads
        service = Service(module="posttrain.rewards.worker", attribute=attribute, arguments=arguments)
        self._worker = WorkerProcess(service)
        self._lock = threading.Lock()
        self._metrics: dict[str, list[float]] = {}

    def values(self, rows: Sequence[Row], step: int = 0) -> list[Value]:
        """See Member."""

        def call(indices: Sequence[int], timeout_s: float) -> list[Value]:
            request = {**self._request([rows[i] for i in indices]), "step": step}
            values, metrics, columns = self._worker.call(request, timeout_s)
            for name, texts in columns.items():
                for i, text in zip(indices, texts, strict=True):
                    rows[i].logged[name] = text
            with self._lock:
                for name, logged in metrics.items():
                    self._metrics.setdefault(name, []).extend(logged)
            return list(values)

        try:
            return list(call_rows(call, len(rows), self._use.timeout))
        except LoadFailed as error:
            raise _loaded(error, self._use) from None

    def _request(self, rows: Sequence[Row]) -> dict[str, Any]:
        return {
            "prompts": [[dict(m) for m in r.prompt.messages] for r in rows],
            "completions": [_text(r, self._sees) for r in rows],
            "columns": self._columns(rows),
            "params": self._use.params,
        }

    def _columns(self, rows: Sequence[Row]) -> dict[str, list[Any]]:
        if self._reads is None:
            return call_arguments([r.columns for r in rows])
        return {name: [_column(r, name) for r in rows] for name in self._reads}

    def take_metrics(self) -> dict[str, list[float]]:
        """See Member."""
        with self._lock:
            taken, self._metrics = self._metrics, {}
        return taken

    def close(self) -> None:
        """See Member."""
        self._worker.close()


class FunctionMember(WorkerMember):
    """A function that a recipe names by module or by path; it sees what TRL would pass it."""

    def __init__(self, use: RewardUse, recipe_dir: Path) -> None:
        arguments = (use.use, str(recipe_dir.resolve()))
        self._set(use, use.sees or "completion", None, attribute="UserReward", arguments=arguments)

    def _request(self, rows: Sequence[Row]) -> dict[str, Any]:
        request = super()._request(rows)
        texts: list[str] = request["completions"]
        request["completions"] = [self._messages(row, text) for row, text in zip(rows, texts, strict=True)]
        wanted = "completion_ids" in self._worker.wants()
        ids = [r.completion.token_ids.tolist() for r in rows] if wanted else []
        return {**request, "completion_ids": ids}

    def _messages(self, row: Row, text: str) -> list[dict[str, Any]]:
        """All turns of an episode, for a function that sees the completion."""
        turns = row.completion.turns if self._sees == "completion" else ()
        return [dict(turn) for turn in turns] or [{"role": "assistant", "content": text}]
