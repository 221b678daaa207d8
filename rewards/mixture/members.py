"""One reward of a mixture, ready to judge rows: a built-in in a confined room, or a function in its own process."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from posttrain.configs.schema import RewardUse
from posttrain.errors import InputError, RewardError
from posttrain.rewards.base import BUILTINS, check_use
from posttrain.rewards.contract import BuiltinReward, JudgeClient, ModelHost, RowError, Value, call_arguments
from posttrain.rewards.mathematics.math import Symbolic
from posttrain.rewards.mixture.confinement import permissions_of, process_for
from posttrain.rewards.mixture.gold_answers import gold_answer
from posttrain.rewards.mixture.loader import split_path
from posttrain.rewards.mixture.rooms import FRESH_CPU_S, decode_all, decode_reply, fresh_rooms, plain_room
from posttrain.rewards.mixture.workers import CallFailed, LoadFailed, Process, Service, WorkerProcess, call_rows
from posttrain.rewards.models.asked import MODEL_FIELDS
from posttrain.rewards.rules.tools import OPEN
from posttrain.sandbox.confined import ConfinedService
from posttrain.sandbox.confined.service import RoomUnavailable
from posttrain.thinking import answer_of
from posttrain.types import Completion, Prompt

_LATE_CPU_S = 0.5
"""Seconds of processor time for a completion once those before it have used up the time of the batch: enough for an
honest one, so that hostile completions take no verdict from the others."""
_KNOWN = 10_000
"""Rows of which is remembered whether they can be judged."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A completion with its prompt, and the prompt's columns as rewards see them."""

    prompt: Prompt
    completion: Completion
    columns: Mapping[str, Any]
    logged: dict[str, str] = field(default_factory=dict)
    """What rewards gave to `log_extra` for this row, by column: filled while they judge."""
    remarks: list[str] = field(default_factory=list)
    """Why verifiers gave no verdict on the completion, where that was its own doing: filled while they judge."""


class Member(Protocol):
    """Judges rows; thread-safe."""

    def values(self, rows: Sequence[Row], step: int = 0) -> list[Value]:
        """One value a row, in order. Raises RewardError if the reward can't be loaded at all."""
        ...

    def take_metrics(self) -> dict[str, list[float]]:
        """What the reward has logged since the last call, by name."""
        ...

    def take_counts(self) -> Counter[str]:
        """What completions have done to their verifier since the last call: see `RoomMember`."""
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
    if builtin.needs in ("nothing", "worker", "math") and use.confine is not False:
        return RoomMember(use, builtin)
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


class RoomMember:
    """A built-in in a confined room (see `rooms`), which no completion can turn into an infra error.

    Where the call that judges a completion fails, and the same row can be judged with its gold answer (an empty one
    where it has none), the completion brought that about: it scores 0. So it does where the reward doesn't apply to the
    completion, and the row's gold answer scores in full. What a reward says of a row itself stays. Counts of
    `take_counts`: `excused`, such completions; `refused`, those for which their verifier tried what it may not, such as
    to run text as code, which score 0 too.
    """

    def __init__(self, use: RewardUse, builtin: BuiltinReward) -> None:
        self._use, self._builtin = use, builtin
        self._sees = use.sees or builtin.sees
        self._reads = builtin.columns + builtin.optional
        self._symbolic = Symbolic() if builtin.needs == "math" else None
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._judgeable: dict[str, bool] = {}

    def values(self, rows: Sequence[Row], step: int = 0) -> list[Value]:
        """See Member."""
        try:
            found = self._judge(rows, [_text(row, self._sees) for row in rows])
            return [self._unexcused(row, value) for row, value in zip(rows, found, strict=True)]
        except LoadFailed as error:
            raise _loaded(error, self._use) from None

    def _judge(self, rows: Sequence[Row], texts: Sequence[str]) -> list[Value]:
        if self._builtin.needs == "worker":
            return self._in_fresh_rooms([self._call([row], [text]) for row, text in zip(rows, texts, strict=True)])

        def call(indices: Sequence[int], timeout_s: float) -> list[Any]:
            request = self._call([rows[i] for i in indices], [texts[i] for i in indices])
            reply = plain_room().reply(request, timeout_s)
            if reply.refused:  # one of them: found in a room of its own
                raise CallFailed("text was to run as code")
            return decode_all(reply.value, len(indices))

        values = call_rows(call, len(rows), self._use.timeout)
        # That clock also runs while the host is busy with something else: what failed by it is tried by its own.
        again = [i for i, value in enumerate(values) if isinstance(value, RowError) and value.source != "row"]
        retried = self._in_fresh_rooms([self._call([rows[i]], [texts[i]]) for i in again])
        for i, value in zip(again, retried, strict=True):
            values[i] = value
        return [self._compared(value) for value in values]

    def _call(self, rows: Sequence[Row], texts: Sequence[str]) -> dict[str, Any]:
        return {
            "name": self._use.use,
            "prompts": [row.prompt.messages for row in rows],
            "completions": list(texts),
            "columns": {name: [_column(row, name) for row in rows] for name in self._reads},
            "params": self._use.params,
        }

    def _in_fresh_rooms(self, calls: Sequence[dict[str, Any]]) -> list[Any]:
        """A room per completion, one for those that are the same in everything."""
        if not calls:
            return []
        rooms = fresh_rooms(self._use.use)
        rooms.wants()  # loading doesn't count
        deadline = time.monotonic() + 4 * self._use.timeout
        known: dict[str, Any] = {}
        values: list[Any] = []
        for call in calls:
            key = repr(call)
            if key not in known:
                late = time.monotonic() > deadline
                cpu_s = min(_LATE_CPU_S if late else FRESH_CPU_S, self._use.timeout)
                known[key] = self._in_fresh_room(rooms, call, cpu_s)
            values.append(known[key])
        return values

    def _in_fresh_room(self, rooms: ConfinedService, call: dict[str, Any], cpu_s: float) -> Any:
        try:
            reply = rooms.reply(call, cpu_s)
        except RoomUnavailable as error:
            return RowError(str(error), "unreached")
        except CallFailed as error:
            return RowError(str(error), "call")
        if reply.refused or reply.denied:
            self._count("refused")
            return RowError("its verifier tried what it may not, such as to run text as code", "call")
        (value,) = decode_all(reply.value, 1)
        return value

    def _compared(self, value: Any) -> Value:
        if not isinstance(value, tuple):
            return value
        assert self._symbolic is not None
        verdict = self._symbolic.same(*value)
        return verdict if verdict is None or isinstance(verdict, RowError) else float(verdict)

    def _unexcused(self, row: Row, value: Value) -> Value:
        if isinstance(value, RowError):
            its_doing = value.source == "call"
        else:
            its_doing = value is None and gold_answer(self._use, row.columns) is not None
        if not its_doing or not self._can_be_judged(row):
            return value
        self._count("excused")
        reason = value.detail if isinstance(value, RowError) else "it doesn't apply to this completion"
        row.remarks.append(f"{self._use.use}: 0, since this completion alone can't be judged: {reason}")
        return 0.0

    def _can_be_judged(self, row: Row) -> bool:
        """Whether the row's gold answer scores in full; where it has none, whether an empty answer gets a number."""
        gold = gold_answer(self._use, row.columns)
        text = answer_of(gold or "") if self._sees == "answer" else gold or ""
        key = repr(self._call([row], [text]))
        with self._lock:
            if key in self._judgeable:
                return self._judgeable[key]
        (value,) = self._judge([row], [text])
        found = isinstance(value, int | float) and (gold is None or value >= self._builtin.full)
        with self._lock:
            if len(self._judgeable) >= _KNOWN:
                self._judgeable.clear()
            self._judgeable[key] = found
        return found

    def _count(self, name: str) -> None:
        with self._lock:
            self._counts[name] += 1

    def take_metrics(self) -> dict[str, list[float]]:
        """See Member."""
        return {}

    def take_counts(self) -> Counter[str]:
        """See Member."""
        with self._lock:
            taken, self._counts = self._counts, Counter()
        return taken

    def close(self) -> None:
        """The rooms are shared: they end with this process."""


class BuiltinMember:
    """A built-in that runs in the caller: our own code, bounded on any text, and what it asks is bounded too."""

    def __init__(
        self, use: RewardUse, builtin: BuiltinReward, judge: JudgeClient | None, models: ModelHost | None
    ) -> None:
        self._use, self._function = use, builtin.function
        self._sees = use.sees or builtin.sees
        self._reads = builtin.columns + builtin.optional
        self._handed: dict[str, Any] = {}
        if builtin.needs == "judge":
            self._handed["judge"] = judge
        elif builtin.needs == "math":
            self._handed["symbolic"] = Symbolic()
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

    def take_counts(self) -> Counter[str]:
        """See Member."""
        return Counter()

    def close(self) -> None:
        """See Member."""


class WorkerMember:
    """A built-in that isn't confined, by the recipe's choice, in a separate process: it could run for ever."""

    def __init__(self, use: RewardUse, builtin: BuiltinReward) -> None:
        service = Service(module="posttrain.rewards.mixture.worker", attribute="BuiltinCall", arguments=(use.use,))
        self._set(use, use.sees or builtin.sees, builtin.columns + builtin.optional, WorkerProcess(service))

    def _set(
        self,
        use: RewardUse,
        sees: str,
        reads: tuple[str, ...] | None,
        process: Process,
        decode: Callable[
            [Any, int], tuple[list[Any], dict[str, list[float]], dict[str, list[str]]]
        ] = lambda reply, _: reply,
    ) -> None:
        self._use, self._sees, self._reads = use, sees, reads
        self._process, self._decode = process, decode
        self._lock = threading.Lock()
        self._metrics: dict[str, list[float]] = {}

    def values(self, rows: Sequence[Row], step: int = 0) -> list[Value]:
        """See Member."""

        def call(indices: Sequence[int], timeout_s: float) -> list[Value]:
            request = {**self._request([rows[i] for i in indices]), "step": step}
            values, metrics, columns = self._decode(self._process.call(request, timeout_s), len(indices))
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

    def take_counts(self) -> Counter[str]:
        """See Member."""
        return Counter()

    def close(self) -> None:
        """See Member."""
        self._process.close()


class FunctionMember(WorkerMember):
    """A function that a recipe names by module or by path; it sees what TRL would pass it."""

    def __init__(self, use: RewardUse, recipe_dir: Path) -> None:
        folder = recipe_dir.resolve()
        confined = permissions_of(use, folder) is not None
        attribute = "ConfinedReward" if confined else "UserReward"
        arguments = (use.use, str(folder))
        service = Service(module="posttrain.rewards.mixture.worker", attribute=attribute, arguments=arguments)
        process = process_for(service, use, folder, stateful=False)
        decode = {"decode": decode_reply} if confined else {}
        self._set(use, use.sees or "completion", None, process, **decode)

    def _request(self, rows: Sequence[Row]) -> dict[str, Any]:
        request = super()._request(rows)
        texts: list[str] = request["completions"]
        request["completions"] = [self._messages(row, text) for row, text in zip(rows, texts, strict=True)]
        wanted = "completion_ids" in self._process.wants()
        ids = [r.completion.token_ids.tolist() for r in rows] if wanted else []
        return {**request, "completion_ids": ids}

    def _messages(self, row: Row, text: str) -> list[dict[str, Any]]:
        """All turns of an episode, for a function that sees the completion."""
        turns = row.completion.turns if self._sees == "completion" else ()
        return [dict(turn) for turn in turns] or [{"role": "assistant", "content": text}]
