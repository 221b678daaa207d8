"""The room of a program in another language: a process that starts it in a folder of its own, waits, and tells.

It is the first process of its pid namespace: when it ends, the kernel ends all that the program started. It locks
itself in before it starts anything, so that everything within is locked in, the compiler too.
"""

from __future__ import annotations

import base64
import contextlib
import mmap
import os
import resource
import signal
from collections.abc import Callable, Mapping
from typing import Any

from posttrain.sandbox import codec
from posttrain.sandbox.isolation import confinement, syscalls
from posttrain.sandbox.judging.language_filter import language_filter
from posttrain.sandbox.rooms.solution_room import MAX_CODE, READY

FOLDER = "/tmp"
FOLDER_MB = 64
FAILED, SIGNALLED = 2, 100
"""Exit codes of the room: the program's was above 0; or a signal ended it, whose number is added."""
_INPUT = f"{FOLDER}/.input"
_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": FOLDER, "TMPDIR": FOLDER, "LANG": "C.UTF-8",
                "OPENSSL_CONF": "/dev/null"}  # fmt: skip
_LIMITS = ((resource.RLIMIT_NOFILE, 256), (resource.RLIMIT_NPROC, 128), (resource.RLIMIT_FSIZE, FOLDER_MB << 20))
Lock = Callable[[bool], None]


def lock(limits: confinement.Limits) -> Lock:
    """What locks such a room in; whether the address space is bounded is known there only."""
    arch = syscalls.architecture()
    assert arch is not None  # the zygote has looked
    program = language_filter(arch)

    def confine(bounded: bool) -> None:
        ruleset = confinement.language_ruleset(FOLDER)
        confinement.confine(limits, ruleset, program, dict(_LIMITS), bounded=bounded)

    return confine


def run_language(channel: int, stdout: int, confine: Lock, page: mmap.mmap) -> None:
    """Runs one command line; its standard output, or the file it was to make, goes to `stdout`."""
    page.close()
    request = codec.read_frame(channel, MAX_CODE)
    confinement.own_folder(FOLDER, FOLDER_MB)
    _write(request["files"])
    with open(_INPUT, "wb") as file:
        file.write(request["stdin"].encode("utf-8", "replace"))
    # No /proc here: but /dev/stdin is a link into it.
    os.makedirs("/proc/self/fd")
    os.symlink(_INPUT, "/proc/self/fd/0")
    confine(request["bounded"])
    os.write(channel, READY)
    os.close(channel)
    wanted = request["gives"]
    pid = os.fork()
    if pid == 0:
        _start(request["argv"], None if wanted else stdout)
    # Our copy of `stdout` stays open: its end says that the program is over, and how is known.
    status = _wait(pid)
    if wanted and status == 0:
        _give(wanted, stdout)
    code = os.waitstatus_to_exitcode(status)
    os._exit(SIGNALLED - code if code < 0 else FAILED if code else 0)


def _write(files: Mapping[str, Any]) -> None:
    os.chdir(FOLDER)
    for name, data in files.items():
        with open(name, "wb") as file:
            file.write(base64.b64decode(data))
        os.chmod(name, 0o700)


def _start(argv: list[str], stdout: int | None) -> None:
    try:
        os.setsid()
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.dup2(os.open(_INPUT, os.O_RDONLY), 0)
        if stdout is not None:
            os.dup2(stdout, 1)
        os.closerange(3, 256)
        os.execve(argv[0], argv, _ENVIRONMENT)
    finally:
        os._exit(127)


def _wait(pid: int) -> int:
    while True:  # orphans come here too
        ended, status = os.wait()
        if ended == pid:
            return status


def _give(name: str, stdout: int) -> None:
    with contextlib.suppress(OSError), open(name, "rb") as file:
        while chunk := file.read(1 << 20):
            view = memoryview(chunk)
            while view:
                view = view[os.write(stdout, view) :]
