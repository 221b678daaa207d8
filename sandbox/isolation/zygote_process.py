"""The process that forks rooms, seen from its parent: started when it is needed, replaced when it is old or dead."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 5.0
REPLY_TIMEOUT_S, PATIENT_REPLY_TIMEOUT_S = 5.0, 60.0
"""After so long without an answer, the zygote counts as dead: it forks and reaps in milliseconds."""
ROUNDS_PER_ZYGOTE = 5000
"""Jobs after which a zygote is replaced: what little may leak, in it or in the kernel, doesn't add up."""
_MESSAGE = 64 << 10
"""Bytes of the longest message that a zygote sends while it starts."""


class StartError(Exception):
    """The zygote reported why it can't serve, or ended before it could."""


class ZygoteProcess:
    """One zygote: `python -I -S SCRIPT *before SOCKET *after`, with this environment and nothing else of its parent's.

    `stdin` is what it reads before it starts to serve. `greeting`: whether it sends one message of its own before
    b"ok". Not thread-safe.
    """

    def __init__(
        self,
        script: str,
        before: Sequence[str] = (),
        after: Sequence[str] = (),
        *,
        environment: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        greeting: bool = False,
        start_timeout_s: float = START_TIMEOUT_S,
        patient: bool = False,
    ) -> None:
        self._script, self._before, self._after = script, tuple(before), tuple(after)
        self._environment, self._stdin = dict(environment or {}), stdin
        self._greets = greeting
        self._start_timeout_s = start_timeout_s
        self._reply_timeout_s = PATIENT_REPLY_TIMEOUT_S if patient else REPLY_TIMEOUT_S
        self.process: subprocess.Popen[bytes] | None = None
        self.control: socket.socket | None = None
        self.rounds = 0
        """Jobs that this zygote has had."""
        self.greeting = b""

    def ready(self) -> socket.socket:
        """The control socket of a zygote that answers, and isn't old. Raises StartError or OSError."""
        if self.control is not None and self.rounds >= ROUNDS_PER_ZYGOTE:
            self.stop()
        if self.control is None:
            self._start()
        assert self.control is not None
        self.rounds += 1
        return self.control

    def stop(self, *, kill: bool = False) -> None:
        """Ends it and every room. `kill`: it may be stopped, or hang."""
        if self.control is not None:
            self.control.close()
        if self.process is not None:
            try:
                if kill:
                    self.process.kill()
                self.process.wait(timeout=STOP_TIMEOUT_S)  # it ends by itself when its socket closes
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.control = self.process = None
        self.rounds = 0

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", self._script, *self._before, str(theirs.fileno()), *self._after],
                env=self._environment,
                cwd="/",
                pass_fds=[theirs.fileno()],
                stdin=subprocess.PIPE if self._stdin else subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # a Ctrl-C of the terminal is for the command, not for its rooms
            )
        self.control = ours
        ours.settimeout(self._start_timeout_s)
        if self._stdin:
            threading.Thread(target=_feed, args=(self.process, self._stdin), daemon=True).start()
        try:
            self.greeting = ours.recv(_MESSAGE) if self._greets else b""
            answer = ours.recv(_MESSAGE)
        except OSError as error:
            answer = str(error).encode()
        if answer != b"ok":
            self.stop(kill=True)
            raise StartError(answer.decode("utf-8", "replace") or "the process died while it started")
        ours.settimeout(self._reply_timeout_s)


def _feed(process: subprocess.Popen[bytes], data: bytes) -> None:
    assert process.stdin is not None
    try:
        with process.stdin as pipe:
            pipe.write(data)
    except OSError:
        return  # it has ended; its socket says why
