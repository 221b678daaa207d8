"""A room that a service answers in: it locks itself in, then reads calls and writes replies. Runs inside the room.

Calls are pickles: the parent made them, and nothing that they load can leave the room. Replies are JSON: what the
parent reads was written by a process that hostile text may have taken over.
"""

from __future__ import annotations

import gc
import json
import mmap
import os
import pickle
import struct
import traceback
from collections.abc import Callable
from typing import Any

from posttrain.sandbox.confined import guard
from posttrain.sandbox.isolation.zygote import Room
from posttrain.sandbox.rooms import watch
from posttrain.sandbox.rooms.solution_room import READY

HEADER = struct.Struct("!I")
"""Bytes of a call or a reply, which follows."""
MAX_REPLY = 16 << 20
MAX_TRACEBACK = 20_000
"""Characters of the traceback of a call that failed: its end says why."""

Service = Callable[[Any], Any]


def service_room(service: Service, *, guarded: bool, network: bool) -> Room:
    """The body of a room that answers calls of `service`. `guarded`: no text may run as Python (see `guard`)."""

    def run(spare: int, channel: int, confine: Callable[[], None], page: mmap.mmap) -> None:
        os.close(spare)
        confine()
        os.write(channel, READY)
        watch.start(page)
        if guarded:
            guard.start(network=network)
        gc.enable()
        while True:
            try:
                (size,) = HEADER.unpack(_exactly(channel, HEADER.size))
                data = _exactly(channel, size)
            except EOFError:
                return
            with guard.own_code():
                call = pickle.loads(data)
            _write(channel, _answer(service, call))

    return run


def _answer(service: Service, call: Any) -> bytes:
    guard.take_refusals()
    try:
        reply: dict[str, Any] = {"ok": service(call)}
        reply["refused"] = guard.take_refusals()
        data = json.dumps(reply).encode("utf-8", "surrogatepass")
    except MemoryError:
        data = json.dumps({"raised": "MemoryError", "refused": guard.take_refusals()}).encode()
    except BaseException:  # noqa: BLE001  a verifier may raise anything, SystemExit too; the caller gets the traceback
        text = traceback.format_exc()[-MAX_TRACEBACK:]
        data = json.dumps({"raised": text, "refused": guard.take_refusals()}).encode()
    if len(data) > MAX_REPLY:
        data = json.dumps({"raised": f"a reply of {len(data)} bytes is too long", "refused": 0}).encode()
    return data


def _exactly(fd: int, size: int) -> bytes:
    buffer = bytearray()
    while len(buffer) < size:
        chunk = os.read(fd, min(1 << 20, size - len(buffer)))
        if not chunk:
            raise EOFError
        buffer += chunk
    return bytes(buffer)


def _write(fd: int, data: bytes) -> None:
    view = memoryview(HEADER.pack(len(data)) + data)
    while view:
        view = view[os.write(fd, view) :]
