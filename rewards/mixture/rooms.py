"""The built-in rewards in confined rooms: what runs there, and the rooms that all scorers of a process share.

Every built-in that reads model text by itself runs in a room without environment, network, writes and processes
(`sandbox.confined`). Those of our own bounded code share one room that answers many calls. Those that give the text
to another library (`needs="worker"`) get a fresh room per completion, and so does symbolic mathematics.
"""

from __future__ import annotations

import atexit
import functools
import os
import threading
from collections.abc import Sequence
from typing import Any

from posttrain.rewards.contract import RowError, Value
from posttrain.sandbox.confined import ConfinedService
from posttrain.sandbox.confined.service import CallFailed, Service

FRESH_CPU_S = 2.0
"""Seconds of processor time that a library may take for one completion. On honest answers none takes a tenth."""
_HOSTS = max(2, min(8, (os.cpu_count() or 2) // 4))
"""Fresh rooms of one reward that are open at once, each forked by another host."""

_LARGEST = 1e300
"""Of a score; not a number isn't smaller."""

Encoded = float | None | dict[str, Any]
"""A value as JSON: a number, null, {"error": why}, or {"compare": [gold, answer]}."""


class BuiltinService:
    """Runs inside the rooms: calls a built-in by name."""

    wants: tuple[str, ...] = ()

    def __init__(self, *names: str) -> None:
        """Load the rewards `names` with what they load at their first call, each by its own gold case."""
        from posttrain.rewards.builtins import BUILTINS

        self._builtins = BUILTINS
        for name in names:
            case = BUILTINS[name].gold
            columns = {key: [value] for key, value in case.columns.items()}
            BUILTINS[name].function([case.messages], [case.completion], **columns, **case.params)

    def __call__(self, call: dict[str, Any]) -> list[Encoded]:
        """One encoded value per completion. A call has `name`, `prompts`, `completions`, `columns` and `params`."""
        builtin = self._builtins[call["name"]]
        handed = {"symbolic": _Deferred()} if builtin.needs == "math" else {}
        keywords = {**call["columns"], **call["params"], **handed}
        return [encode(value) for value in builtin.function(call["prompts"], call["completions"], **keywords)]


class _Deferred:
    """Replaces the process of symbolic mathematics in a room that can't start one."""

    def same(self, gold: str, answer: str) -> dict[str, list[str]]:
        return {"compare": [gold, answer]}


def encode(value: Any) -> Encoded:
    """A value as JSON."""
    if isinstance(value, RowError):
        return {"error": value.detail}
    if value is None or isinstance(value, dict):
        return value
    return float(value)


def decode(value: Any) -> Value | tuple[str, str]:
    """A value as a room encoded it; (gold, answer) where mathematics must be compared symbolically.

    Only these forms are read: a room that hostile text has taken over may write anything.
    """
    if value is None:
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value if abs(value) < _LARGEST else RowError("the process that scores wrote no finite number")
    if isinstance(value, dict) and isinstance(value.get("error"), str):
        return RowError(value["error"])
    if isinstance(value, dict) and isinstance(value.get("compare"), list) and len(value["compare"]) == 2:
        return str(value["compare"][0]), str(value["compare"][1])
    return RowError("the process that scores wrote no value")


DecodedReply = tuple[list[Any], dict[str, list[float]], dict[str, list[str]]]
"""(values, what a function logged as metrics, what it logged as columns with one text per row)"""


def decode_reply(reply: Any, rows: int) -> DecodedReply:
    """A confined function's reply: values, what it logged as metrics, and as columns. Raises CallFailed."""
    if not isinstance(reply, list) or len(reply) != 3 or not all(isinstance(part, dict) for part in reply[1:]):
        raise CallFailed("the process that scores wrote no reply of a reward")
    values, metrics, columns = reply
    numbers = {
        name: [float(value) for value in found if isinstance(value, int | float) and abs(value) < _LARGEST]
        for name, found in metrics.items()
        if isinstance(found, list)
    }
    texts = {
        name: [str(text) for text in found]
        for name, found in columns.items()
        if isinstance(found, list) and len(found) == rows
    }
    return decode_all(values, rows), numbers, texts


def decode_all(values: Any, rows: int) -> list[Value | tuple[str, str]]:
    """`decode` for the reply to a call with this number of completions."""
    if not isinstance(values, Sequence) or len(values) != rows:
        return [RowError("the process that scores wrote another number of values")] * rows
    return [decode(value) for value in values]


class _Rooms:
    """The services of this process by name: started at first use, ended with the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._services: dict[str, ConfinedService] = {}
        atexit.register(self.close)

    def of(self, name: str, service: Service, *, fresh: bool) -> ConfinedService:
        """The service of that name; made if there is none."""
        with self._lock:
            if name not in self._services:
                self._services[name] = ConfinedService(service, fresh=fresh, hosts=_HOSTS)
            return self._services[name]

    def close(self) -> None:
        """Ends all processes; a later call starts them again."""
        with self._lock:
            services, self._services = list(self._services.values()), {}
        for service in services:
            service.close()


@functools.cache
def _rooms() -> _Rooms:
    return _Rooms()


def plain_room() -> ConfinedService:
    """One room for all built-ins of our own code."""
    from posttrain.rewards.builtins import BUILTINS

    names = tuple(name for name, reward in BUILTINS.items() if reward.needs in ("nothing", "math"))
    return _rooms().of("", Service(module=__name__, attribute="BuiltinService", arguments=names), fresh=False)


def fresh_rooms(name: str) -> ConfinedService:
    """A room per completion for the built-in `name`."""
    return _rooms().of(name, Service(module=__name__, attribute="BuiltinService", arguments=(name,)), fresh=True)


def symbolic_rooms() -> ConfinedService:
    """A room per comparison of two mathematical expressions."""
    return _rooms().of(
        "math:", Service(module="posttrain.rewards.mathematics.math", attribute="SymbolicService"), fresh=True
    )


def close() -> None:
    """End all rooms of this process; a later call starts them again."""
    _rooms().close()
