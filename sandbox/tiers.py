"""Which confinement this host allows: probed by effect, with live attacks through the real path.

| tier | needs                | adds                                                                       |
| A    | user namespaces      | own pid, network, ipc and mount namespaces: no host process is even seen   |
| B    | seccomp and Landlock | reads of the standard library only; works in default containers            |
| C    | seccomp              | no file opens: only preloaded modules import                               |
| none | -                    | no code is run                                                             |
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Literal

from posttrain.errors import SandboxError
from posttrain.sandbox.jobs import Job
from posttrain.sandbox.supervisor import Judge

Tier = Literal["A", "B", "C", "none"]
TIERS: tuple[Tier, ...] = ("A", "B", "C")
"""Strongest first."""

_FIXES = {
    "A": "allow unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1 or "
    "kernel.apparmor_restrict_unprivileged_userns=0; user.max_user_namespaces above 0)",
    "B": "use a kernel from 5.13 on with Landlock among its boot-time `lsm=`, on x86-64 or aarch64",
    "C": "use Linux on x86-64 or aarch64 with seccomp filters, and a container profile that allows "
    "prctl(PR_SET_SECCOMP)",
}


@dataclass(frozen=True, kw_only=True)
class TierReport:
    """What a host allows.

    >>> TierReport(tier="B", reason="tier A: unshare: Operation not permitted", fix="allow ...")
    """

    tier: Tier
    reason: str = ""
    """Why no stronger tier is possible; empty for A."""
    fix: str = ""
    failures: tuple[str, ...] = field(default=())
    """Self-test cases that went wrong, of the strongest tier that could be put up."""


# Each is the body of a function that must raise OSError or return false; `parent` is a pid to harm.
_ATTACKS: dict[str, str] = {
    "read a host file": "return open('/etc/passwd').read()",
    "read another process": "return open(f'/proc/{parent}/environ', 'rb').read()",
    "write a file": "return open('/tmp/posttrain_probe', 'w')",
    "make a folder": "os.mkdir('/tmp/posttrain_probe'); return True",
    "open a TCP socket": "return socket.create_connection(('127.0.0.1', 9), 1)",
    "open a UDP socket": "return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
    "open a Unix socket": "return socket.socket(socket.AF_UNIX)",
    "fork": "return os.fork() or os._exit(0)",
    "run a program": "os.execv('/bin/true', ['true'])",
    "signal the parent": "os.kill(parent, 0); return True",
    "limit the parent": "resource.prlimit(parent, resource.RLIMIT_NOFILE); return True",
    "lift its own limits": "resource.setrlimit(resource.RLIMIT_AS, (-1, -1)); return True",
    "trace": "return libc.syscall(TRACE, 16, parent, 0, 0) == 0",
    "create a memory file": "return os.memfd_create('x') >= 0",
    "enter a namespace": "return libc.unshare(0x10000000) == 0",
    "mount": "return libc.mount(b'none', b'/tmp', b'tmpfs', 0, None) == 0",
    "attach shared memory": "return libc.shmget(0, 4096, 0o1600) >= 0",
    "set up io_uring": "return libc.syscall(425, 1, ctypes.create_string_buffer(256)) >= 0",
    "use keys": "return libc.syscall(KEYCTL, 0, -1, 0) >= 0",
}
_ATTACKS_ON_A = {"see another process": "return os.path.exists(f'/proc/{parent}')"}
_ATTACK = """import os, socket, resource, ctypes
libc = ctypes.CDLL(None)
TRACE, KEYCTL = (101, 250) if os.uname().machine == "x86_64" else (117, 219)
parent = {parent}
def body():
    {body}
def attempt():
    try:
        return bool(body())
    except (OSError, ValueError):
        return False
"""
_FORGERIES: dict[str, str] = {
    "equal to everything": "class E(int):\n    def __eq__(s, o): return True\ndef add(a, b): return E(0)",
    "leave with success": "import os\ndef add(a, b): os._exit(0)",
    "write to every descriptor": "import os\ndef add(a, b):\n    for fd in range(64):\n        try: os.write(fd, "
    "b'1\\0\\0\\0\\x09\\0\\0\\0\\0\\1\\0\\0\\0\\1')\n        except OSError: pass\n    os._exit(0)",
}
_CONTROLS: dict[str, str] = {
    "plain": "def add(a, b): return a + b",
    "standard library": "import math, json, heapq, re, itertools\ndef add(a, b): return math.fsum([a, b])",
    "threads": "from concurrent.futures import ThreadPoolExecutor\ndef add(a, b):\n"
    "    with ThreadPoolExecutor(2) as pool: return pool.submit(lambda: a + b).result()",
    "recursion": "def add(a, b): return b if a == 0 else 1 + add(a - 1, b)",
    "100 MiB": "def add(a, b): return len(bytearray(100 << 20)) * 0 + a + b",
}
_ADDS = ("assert add(1, 2) == 3\nassert add(20, 22) == 42",)


def self_test(judge: Judge) -> list[str]:
    """Names of attacks that worked and of honest programs that failed; empty if all is well. About 0.3 s."""
    failures = []
    # Not importable where no file may be opened; then the attacks that need ctypes can't even start.
    attacks = {**_ATTACKS, **(_ATTACKS_ON_A if judge.tier == "A" else {})}
    for name, body in attacks.items():
        code = _ATTACK.format(parent=os.getpid(), body=body)
        verdict = judge.run(Job(id=name, code=code, tests=("assert attempt() is False",), entry=("attempt",)))
        needs_files = judge.tier == "C" and verdict.outcome == "crash"
        if verdict.outcome != "pass" and not needs_files:
            failures.append(f"{name}: {verdict.outcome} {verdict.message}".strip())
    for name, code in _FORGERIES.items():
        verdict = judge.run(Job(id=name, code=code, tests=_ADDS, entry=("add",)))
        if verdict.outcome in ("pass", "infra_error"):
            failures.append(f"{name}: {verdict.outcome}")
    for name, code in _CONTROLS.items():
        verdict = judge.run(Job(id=name, code=code, tests=_ADDS, entry=("add",)))
        if verdict.outcome != "pass":
            failures.append(f"{name}: {verdict.outcome} {verdict.message}".strip())
    return failures


def probe() -> TierReport:
    """The strongest tier that can be put up here and passes its self-test. About a second; starts processes."""
    reasons: list[str] = []
    fix = ""
    failures: tuple[str, ...] = ()
    for tier in TIERS:
        try:
            with Judge(tier) as judge:
                failed = self_test(judge)
        except (SandboxError, OSError) as error:
            reasons.append(f"tier {tier}: {error}".splitlines()[0])
        else:
            if not failed:
                return TierReport(tier=tier, reason="; ".join(reasons), fix=fix, failures=failures)
            failures = failures or tuple(failed)
            reasons.append(f"tier {tier}: {len(failed)} self-test cases failed, first {failed[0]}")
        fix = _FIXES[tier]  # the nearest tier is the first to get
    return TierReport(tier="none", reason="; ".join(reasons), fix=fix, failures=failures)


def require(min_tier: str) -> TierReport:
    """What this host allows, if that is at least `min_tier`; else raises SandboxError that says why and what to do."""
    report = probe()
    if report.tier == "none" or TIERS.index(report.tier) > TIERS.index(min_tier):
        hint = f", or accept less with min_tier: {report.tier}" if report.tier != "none" else ""
        raise SandboxError(
            f"this host allows sandbox tier {report.tier}, and {min_tier} is asked for ({report.reason})",
            where="sandbox",
            fix=f"{_FIXES[min_tier]}{hint}",
        )
    return report
