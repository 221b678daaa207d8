"""The worker process: `python -m posttrain.rewards.mixture.worker SOCKET`. Loads a service, answers one call at a time.

Everything runs on the main thread, so that code which uses signals works. Frames are length-prefixed pickles:
both ends are ours, and what is loaded is code that the user named.
"""

from __future__ import annotations

import importlib
import os
import pickle
import socket
import struct
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.rewards.contract import RowError
from posttrain.rewards.mixture import loader
from posttrain.rewards.mixture.rooms import encode

HEADER = struct.Struct("!Q")
LONGEST_EXTRA = 2000
"""Characters of a value that log_extra keeps."""

Answer = tuple[list[float | RowError | None], dict[str, list[float]], dict[str, list[str]]]
"""(one value a row; what log_metric was given, by name; what log_extra was given, by column, one text a row)"""


@dataclass(frozen=True)
class TrainerState:
    """What a reward may know of the training: of TRL's `trainer_state`, the part that every stage has."""

    global_step: int


class UserReward:
    """A reward function that a recipe names by module or by path."""

    def __init__(self, use: str, recipe_dir: str) -> None:
        self._reward = loader.load(use, recipe_dir)
        self.wants = loader.extras_of(self._reward)

    def __call__(self, call: dict[str, Any]) -> Answer:
        """See Answer. Raises ValueError where log_extra is given another number of values than there are rows."""
        metrics: dict[str, list[float]] = {}
        columns: dict[str, list[str]] = {}
        rows = len(call["completions"])
        extras = {
            "completion_ids": call["completion_ids"],
            "trainer_state": TrainerState(global_step=call["step"]),
            "log_extra": lambda name, values: columns.__setitem__(str(name), _texts(name, values, rows)),
            "log_metric": lambda name, value: metrics.setdefault(name, []).append(float(value)),
        }
        given = {k: v for k, v in extras.items() if k in self.wants}
        values = loader.call(self._reward, call["prompts"], call["completions"], call["columns"], call["params"], given)
        return values, metrics, columns


class ConfinedReward(UserReward):
    """The same in a confined room, whose replies are JSON: see `rooms.decode_all` for the values."""

    def __call__(self, call: dict[str, Any]) -> Any:
        values, metrics, columns = super().__call__(call)
        return [[encode(value) for value in values], metrics, columns]


class BuiltinCall:
    """A built-in that may run for ever on hostile text."""

    wants: tuple[str, ...] = ()

    def __init__(self, name: str) -> None:
        from posttrain.rewards.base import BUILTINS

        self._function = BUILTINS[name].function

    def __call__(self, call: dict[str, Any]) -> Answer:
        keywords = {**call["columns"], **call["params"]}
        return list(self._function(call["prompts"], call["completions"], **keywords)), {}, {}


def _texts(name: str, values: Sequence[Any], rows: int) -> list[str]:
    texts = [str(value)[:LONGEST_EXTRA] for value in values]
    if len(texts) != rows:
        raise ValueError(f"log_extra({name!r}, ...) was given {len(texts)} values for {rows} completions")
    return texts


def receive(connection: socket.socket) -> Any:
    """One frame. Raises EOFError at the end."""
    (size,) = HEADER.unpack(_exactly(connection, HEADER.size))
    return pickle.loads(_exactly(connection, size))


def _exactly(connection: socket.socket, size: int) -> bytes:
    buffer = bytearray()
    while len(buffer) < size:
        chunk = connection.recv(min(1 << 20, size - len(buffer)))
        if not chunk:
            raise EOFError
        buffer += chunk
    return bytes(buffer)


def send(connection: socket.socket, value: Any) -> None:
    """One frame. Raises OSError, TimeoutError."""
    body = pickle.dumps(value)
    connection.sendall(HEADER.pack(len(body)) + body)


def _answer(service: Callable[..., Any], call: Any) -> tuple[str, Any]:
    try:
        return "ok", service(call)
    except Exception:  # noqa: BLE001  a user's function may raise anything; the caller gets the traceback
        return "raised", traceback.format_exc()


def main(fd: int) -> None:
    """Serves until the other side hangs up."""
    connection = socket.socket(fileno=fd)
    os.dup2(2, 1)  # what a reward prints must not get between the JSON lines of a command
    module, attribute, arguments, path = receive(connection)
    sys.path[:] = path
    try:
        service = getattr(importlib.import_module(module), attribute)(*arguments)
    except Exception:  # noqa: BLE001  passed on, as above
        send(connection, ("raised", traceback.format_exc()))
        return
    send(connection, ("ready", tuple(getattr(service, "wants", ()))))
    while True:
        try:
            call = receive(connection)
        except (EOFError, ConnectionError):
            return
        send(connection, _answer(service, call))


if __name__ == "__main__":
    main(int(sys.argv[1]))
