"""The host of confined rooms: loads one service in a clean process, then forks a room for each that is asked for.

It sees no model text: calls go to the rooms by descriptors that it only passes on, so that no later room inherits
what an earlier one read. What is loaded here is an installed package, or a file that the user named.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import traceback
from collections.abc import Mapping
from typing import Any

from posttrain.sandbox.confined.room import service_room
from posttrain.sandbox.isolation import zygote
from posttrain.sandbox.isolation.confinement import ConfinementError

_TIER = "B"
"""Seccomp and Landlock, which work without privileges in containers; a namespace would add nothing that a process
without processes, network and files could use."""
_LONGEST = 32 << 10


def main(socket_fd: int, configuration: Mapping[str, Any]) -> None:
    """Reports what the service takes (`wants`), or why it can't be loaded, then serves. Never returns."""
    control = socket.socket(fileno=socket_fd)
    try:
        module = importlib.import_module(configuration["module"])
        service = getattr(module, configuration["attribute"])(*configuration["arguments"])
        if len(os.listdir("/proc/self/task")) != 1:
            raise RuntimeError(
                "it started threads while it was loaded, and a confined process can't be forked from it: import what "
                "does so (torch?) inside the function, or leave `confine` out"
            )
    except BaseException:  # noqa: BLE001  a user's file may raise anything, SystemExit too; passed on
        _send(control, {"failed": traceback.format_exc()})
        os._exit(1)
    _send(control, {"wants": list(getattr(service, "wants", ()))})
    room = service_room(service, guarded=configuration["guarded"], network=configuration["network"])
    try:
        forks = zygote.Zygote(
            control,
            _TIER,
            configuration["folders"],
            {zygote.SERVICE: room},
            listed=configuration["listed"],
            network=configuration["network"],
        )
    except (ConfinementError, OSError) as error:
        control.send(str(error).encode()[:1000])
        os._exit(1)
    zygote.serve(control, forks)


def _send(control: socket.socket, message: Mapping[str, Any]) -> None:
    text = {key: value[-_LONGEST:] if isinstance(value, str) else value for key, value in message.items()}
    control.send(json.dumps(text).encode())
