"""Each program is a way to earn a verdict without solving the task, or to harm the host. None may pass."""

import os
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from posttrain.sandbox.jobs import Job, Verdict
from posttrain.sandbox.supervisor import Judge

TESTS = ("assert add(1, 2) == 3\nassert add(-4, 9) == 5\nassert add(10**12, 1) == 10**12 + 1",)


def run(judge: Judge, code: str, tests: tuple[str, ...] = TESTS, memory_mb: int = 256) -> Verdict:
    return judge.run(Job(id="x", code=code, tests=tests, entry=("add",), timeout_s=1, memory_mb=memory_mb))


EQUALITY = {
    "always equal": "class E:\n    def __eq__(s, o): return True\n    def __ne__(s, o): return False\n"
    "def add(a, b): return E()",
    "int subclass": "class E(int):\n    def __eq__(s, o): return True\n    __hash__ = int.__hash__\n"
    "def add(a, b): return E(0)",
    "str subclass": "class E(str):\n    def __eq__(s, o): return True\n    __hash__ = str.__hash__\n"
    "def add(a, b): return E('x')",
    "mock.ANY": "from unittest.mock import ANY\ndef add(a, b): return ANY",
    "class spoof": "class P:\n    @property\n    def __class__(s): return int\n    def __eq__(s, o): return True\n"
    "    def __index__(s): return 3\ndef add(a, b): return P()",
    "NotImplemented": "def add(a, b): return NotImplemented",
    "coroutine": "async def add(a, b): return a + b",
    "text": "def add(a, b): return str(a + b)",
    "prints": "def add(a, b): print(a + b)",
    "reads the caller": "import sys\ndef add(a, b):\n    f = sys._getframe(1)\n    while f:\n"
    "        for v in list(f.f_locals.values()) + list(f.f_code.co_consts):\n"
    "            if type(v) is int and v > 2: return v\n        f = f.f_back\n    return 0",
    "namesake of a plain type": "class deque(list):\n    def __eq__(s, o): return True\ndef add(a, b): return deque()",
}
# Each with tests of its own, that the lie aims at.
AIMED = {
    "length": ("class L(list):\n    def __len__(s): return 2\n    def __iter__(s): return iter([1, 3])\n"
               "def add(x): return L([9] * 3)", "assert len(add(1)) == 2\nassert sorted(add(1)) == [1, 3]"),
    "membership": ("class L:\n    def __contains__(s, o): return True\n    def __iter__(s): return iter([])\n"
                   "def add(x): return L()", "assert 3 in add(1)"),
    "truth": ("class L:\n    def __bool__(s): return True\ndef add(x): return L()", "assert add(1) is True"),
    "difference": ("class L:\n    def __sub__(s, o): return s\n    __rsub__ = __sub__\n    def __abs__(s): return 0\n"
                   "    def __lt__(s, o): return True\ndef add(x): return L()", "assert abs(add(1) - 3) < 1e-6"),
    "float subclass": ("class F(float):\n    def __sub__(s, o): return 0.0\n    def __abs__(s): return 0.0\n"
                       "    def __lt__(s, o): return True\ndef add(x): return F(7)", "assert abs(add(1) - 3) < 1e-6"),
    "not a number": ("def add(x): return float('nan')", "assert abs(add(1) - 3) < 1e-6"),
    "rounding": ("class L:\n    def __round__(s, *a): return 3\n    def __int__(s): return 3\n    __index__ = __int__\n"
                 "def add(x): return L()", "assert round(add(1), 2) == 3"),
    "conversion": ("class L:\n    def __int__(s): return 3\n    __index__ = __int__\ndef add(x): return L()",
                   "assert int(add(1)) == 3"),
    "dict subclass": ("class D(dict):\n    def __getitem__(s, k): return 1\n    def get(s, *a): return 1\n"
                      "def add(x): return D()", "assert add(1)['a'] == 1"),
    "tuple subclass": ("class T(tuple):\n    def __getitem__(s, k): return 1\ndef add(x): return T((9,))",
                       "assert add(1)[0] == 1"),
    "text methods": ("class Z(str):\n    def lower(s): return 'abc'\ndef add(x): return Z('zzz')",
                     "assert add(1).lower() == 'abc'"),
    "any attribute": ("class V:\n    def __getattribute__(s, n): return V()\n    def __call__(s, *a): return V()\n"
                      "    def __eq__(s, o): return True\nadd = V()", "s = add()\ns.push(1)\nassert s.pop() == 1"),
    "arithmetic tells what is expected": (
        "seen = []\nclass L:\n    def __sub__(s, o):\n        seen.append(o); return 0\n    __rsub__ = __sub__\n"
        "def add(x): return seen[0] if seen else L()", "try: add(1) - 3\nexcept TypeError: pass\nassert add(1) == 3"),
    "endless range": ("def add(x): return range(10**18)", "assert list(add(1)) == [3]"),
    "calls back for ever": ("def add(f):\n    while True: f(0)", "assert add(lambda x: x) == 1"),
    "calls back itself": ("def add(f):\n    while True:\n        try: f(add)\n        except Exception: return 0",
                          "def g(h): return h(g)\nassert add(g) == 1"),
}  # fmt: skip
HARNESS = {
    "exit": "import sys\nsys.exit(0)",
    "exit in the call": "import os\ndef add(a, b): os._exit(0)",
    "BaseException": "def add(a, b): raise GeneratorExit",
    "AssertionError": "def add(a, b): raise AssertionError",
    "atexit": "import atexit, os\natexit.register(lambda: os._exit(0))\ndef add(a, b): return 0",
    "close everything": "import os\nos.closerange(0, 65536)\ndef add(a, b): return 0",
    "write everywhere": "import os, struct\ndef add(a, b):\n    verdict = b'1' + struct.pack('!IBII', 9, 0, 3, 3)\n"
    "    for fd in range(64):\n        for data in (verdict, verdict[1:]):\n            try: os.write(fd, data)\n"
    "            except OSError: pass\n    os._exit(0)",
    "answer for the tester": "import os, json, struct\ndef add(a, b):\n    for v in ('null', 'true', '[]', '[[[['):\n"
    "        body = v.encode()\n        for fd in range(3, 64):\n"
    "            try: os.write(fd, struct.pack('!I', len(body)) + body)\n            except OSError: pass\n"
    "    return 0",
    "shadow builtins": "import builtins\nbuiltins.len = builtins.abs = lambda x: 0\n"
    "builtins.exec = builtins.eval = lambda *a: None\ndef add(a, b): return 0",
    "swallow the timeout": "def add(a, b):\n    while True:\n        try:\n            while True: pass\n"
    "        except BaseException: pass",
    "hostile exception": "class E(Exception):\n    def __str__(s): raise E()\n    __repr__ = __str__\n"
    "def add(a, b): raise E()",
    "pickle": "import os\nclass R:\n    def __reduce__(s): return (os.system, ('true',))\n"
    "    def __eq__(s, o): return True\ndef add(a, b): return R()",
    "cyclic": "def add(a, b):\n    r = []; r.append(r); return r",
    "deep": "def add(a, b):\n    r = []\n    for _ in range(5000): r = [r]\n    return r",
    "hijack the room's own server": "import gc\ndef add(a, b):\n    for o in gc.get_objects():\n"
    "        if type(o).__name__ == 'Server': o.reply = lambda r: ['ok', True, []]\n    return 0",
    "patch the room's own modules": "import sys\nfor n, m in list(sys.modules.items()):\n    if 'sandbox' in n:\n"
    "        for k in ('encode', 'frame', 'decode', 'matches'): setattr(m, k, lambda *a, **k: True)\n"
    "def add(a, b): return 0",
    "patch every function": "import gc, types\ndef add(a, b):\n    for o in gc.get_objects():\n"
    "        if isinstance(o, types.FunctionType):\n            try: o.__code__ = (lambda *a, **k: True).__code__\n"
    "            except Exception: pass\n    return 0",
    "trace": "import sys, threading\ndef t(*a): return t\nsys.settrace(t); sys.setprofile(t); threading.settrace(t)\n"
    "def add(a, b): return 0",
    "exit by alarm": "import os, signal\nsignal.signal(signal.SIGALRM, lambda *a: os._exit(0))\n"
    "signal.setitimer(signal.ITIMER_REAL, 0.01)\ndef add(a, b):\n    while True: pass",
    "exit by thread": "import os, threading, time\nthreading.Timer(0.01, os._exit, (0,)).start()\n"
    "def add(a, b): time.sleep(9)",
    "put descriptors over the channel": "import os\nfor fd in range(3, 64):\n    try: os.dup2(0, fd)\n"
    "    except OSError: pass\ndef add(a, b): return 0",
    "a channel that doesn't wait": "import os\nfor fd in range(64):\n    try: os.set_blocking(fd, False)\n"
    "    except OSError: pass\ndef add(a, b): return 0",
    "shut the channel": "import os, socket\ndef add(a, b):\n    for fd in range(3, 64):\n"
    "        try: socket.socket(fileno=os.dup(fd)).shutdown(2)\n        except OSError: pass\n    return 0",
    "pass a descriptor": "import array, os, socket\ndef add(a, b):\n    for fd in range(3, 64):\n        try:\n"
    "            s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=os.dup(fd))\n"
    "            s.sendmsg([b'1'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [0]))])\n"
    "        except OSError: pass\n    return 0",
    "an exception of a room's name": "SystemExit = type('SystemExit', (Exception,), {})\n"
    "def add(a, b): raise SystemExit(0)",
    "an exception group": "def add(a, b): raise ExceptionGroup('x', [AssertionError()])",
    "an exception that holds itself": "class E(Exception):\n    def __init__(s): s.args = (s,)\n"
    "def add(a, b): raise E()",
    "a long exception": "def add(a, b): raise ValueError('x' * (1 << 26))",
    "StopIteration": "def add(a, b): raise StopIteration(a + b)",
    "nested source": "def add(a, b):\n    return " + "(" * 5000 + "a + b" + ")" * 5000,
    "a null in the source": "def add(a, b): return a + b\n\0",
    "a huge exponent": "from decimal import Decimal\ndef add(a, b): return Decimal('1e999999999')",
    "a huge text": "def add(a, b): return 'x' * (32 << 20)",
    "many nodes": "def add(a, b): return [[0] * 1000] * 1000",
    "a small stack": "import sys\nsys.setrecursionlimit(30)\ndef add(a, b): return 0",
    "a class that equals": "class M(type):\n    def __eq__(s, o): return True\n    __hash__ = type.__hash__\n"
    "class C(metaclass=M): pass\ndef add(a, b): return C",
    "infra_error on request": "import os\ndef add(a, b): os._exit(97)",
}
CRASHES = {
    "segfault": "import ctypes\ndef add(a, b): ctypes.string_at(0)",
    "stack": "import sys\nsys.setrecursionlimit(10**8)\nclass A:\n    def __repr__(s): return repr(s)\n"
    "def add(a, b): return repr(A())",
    "abort": "import os\ndef add(a, b): os.abort()",
}
RESOURCES = {
    "loop at load": "while True: pass",
    "sleep": "import time\ndef add(a, b): time.sleep(10**9)",
    "C loop": "def add(a, b): return sum(range(10**13))",
    "memory": "def add(a, b):\n    k = []\n    while True: k.append(bytearray(b'x') * (16 << 20))",
    "shared memory": "import mmap\ndef add(a, b):\n    k = []\n    while True:\n        m = mmap.mmap(-1, 64 << 20)\n"
    "        m.write(b'x' * (64 << 20)); k.append(m)",
    "huge integer": "def add(a, b): return 1 << 2_000_000_000",
    "threads": "import threading, time\ndef add(a, b):\n    while True:\n"
    "        try: threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()\n"
    "        except RuntimeError: pass",
    "stdout flood": "import sys\ndef add(a, b):\n    while True: sys.stdout.write('x' * 65536)",
    "endless iterator": "def add(a, b):\n    while True: yield 1",
}


@pytest.mark.parametrize("name", EQUALITY)
def test_a_lying_value_is_wrong(judge: Judge, name: str) -> None:
    assert run(judge, EQUALITY[name]).outcome in ("wrong", "crash")


@pytest.mark.parametrize("name", AIMED)
def test_a_lie_for_this_very_test_is_no_pass(judge_b: Judge, name: str) -> None:
    code, tests = AIMED[name]
    assert run(judge_b, code, (tests,)).outcome not in ("pass", "infra_error")


@pytest.mark.parametrize("name", HARNESS)
def test_the_harness_can_not_be_fooled(judge: Judge, name: str) -> None:
    assert run(judge, HARNESS[name]).outcome not in ("pass", "infra_error")


@pytest.mark.parametrize("name", CRASHES)
def test_a_crash_is_a_crash(judge_b: Judge, name: str) -> None:
    assert run(judge_b, CRASHES[name]).outcome in ("crash", "wrong", "timeout", "memory")
    assert run(judge_b, "def add(a, b): return a + b").outcome == "pass"


@pytest.mark.parametrize("name", RESOURCES)
def test_resources_are_bounded(judge_b: Judge, name: str) -> None:
    started = time.monotonic()
    verdict = run(judge_b, RESOURCES[name])
    assert verdict.outcome in ("timeout", "memory", "wrong", "crash", "output_limit")
    assert time.monotonic() - started < 3 * 1 + 1 + 2
    assert [p.status() for p in psutil.Process(judge_b.zygote_pid).children()] == []


HOST = {
    "read": "return open({secret!r}).read()",
    "list": "return os.listdir({folder!r})",
    "write": "open({folder!r} + '/new', 'w').close(); return True",
    "truncate": "open({secret!r}, 'wb').close(); return True",
    "unlink": "os.unlink({secret!r}); return True",
    "rename": "os.rename({secret!r}, {secret!r} + 'x'); return True",
    "link": "os.symlink({secret!r}, {folder!r} + '/link'); return True",
    "chmod": "os.chmod({secret!r}, 0); return True",
    "environment of the judge": "return open('/proc/{pid}/environ', 'rb').read()",
    "memory of the judge": "return open('/proc/{pid}/mem', 'rb')",
    "kill": "os.kill({pid}, 0); return True",
    "renice": "os.setpriority(os.PRIO_PROCESS, {pid}, 19); return True",
    "limits of the judge": "resource.prlimit({pid}, resource.RLIMIT_NOFILE, (16, 16)); return True",
    "own limits": "resource.setrlimit(resource.RLIMIT_AS, (-1, -1)); return True",
    "owner of a pipe": "r, w = os.pipe(); fcntl.fcntl(r, fcntl.F_SETOWN, {pid}); return True",
    "fork": "return os.fork() or os._exit(0)",
    "exec": "os.execv('/bin/true', ['true'])",
    "shell": "return os.system('true') == 0",
    "memfd": "return os.memfd_create('x') > 0",
    "tcp": "return socket.create_connection(('127.0.0.1', {port}), 1)",
    "udp": "return socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))",
    "unix": "return socket.socket(socket.AF_UNIX).connect('\\0posttrain-test')",
    "unix by way of a pair": "return socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendto(b'x', {sock!r})",
    "clock": "time.clock_settime(time.CLOCK_REALTIME, time.time()); return True",
    "x32": "return libc.syscall(0x40000000 | 41, 2, 1, 0) >= 0",
    "bpf": "return libc.syscall(321, 0, 0, 0) >= 0",
    "thread in a namespace": "return libc.syscall(56, 0x3d0f00 | 0x40000000, 0, 0, 0, 0) >= 0",
}
PRELUDE = """import os, socket, resource, fcntl, time, ctypes
libc = ctypes.CDLL(None)
def body():
    {body}
def add(a, b):
    try:
        return a + b if body() else 0
    except (OSError, ValueError):
        return 0
"""


@pytest.fixture
def host(tmp_path: Path) -> Iterator[dict[str, object]]:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as unix:
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        unix.bind(str(tmp_path / "sock"))
        unix.setblocking(False)
        yield {
            "secret": str(secret),
            "folder": str(tmp_path),
            "pid": os.getpid(),
            "port": tcp.getsockname()[1],
            "sock": str(tmp_path / "sock"),
        }
        with pytest.raises(BlockingIOError):
            unix.recv(1)
    assert secret.read_text() == "secret"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["secret", "sock"]


@pytest.mark.parametrize("name", HOST)
def test_the_host_is_out_of_reach(judge: Judge, host: dict[str, object], name: str) -> None:
    if judge.tier == "C":
        pytest.skip("nothing imports there that could attack")
    before = resource.getrlimit(resource.RLIMIT_NOFILE), os.getpriority(os.PRIO_PROCESS, 0), os.getcwd()
    verdict = run(judge, PRELUDE.format(body=HOST[name].format(**host)))
    assert verdict.outcome in ("wrong", "crash"), verdict
    assert before == (resource.getrlimit(resource.RLIMIT_NOFILE), os.getpriority(os.PRIO_PROCESS, 0), os.getcwd())


def test_tier_a_does_not_even_see_the_host(judge: Judge, host: dict[str, object]) -> None:
    if judge.tier != "A":
        pytest.skip("the other tiers share the host's view of files; they can't open them")
    paths = [f"/proc/{host['pid']}", "/proc/self", "/sys/kernel"]
    code = f"import os\ndef add(a, b): return not any(os.path.exists(p) for p in {paths!r})"
    assert run(judge, code, ("assert add(1, 2)",)).outcome == "pass"


def test_no_secret_of_the_environment(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "hunter2")
    with Judge(judge.tier) as fresh:
        verdict = run(fresh, "import os\ndef add(a, b): raise ValueError(repr(dict(os.environ)))")
    assert "hunter2" not in repr(verdict)
    assert "{}" in verdict.message


def test_nothing_stays_for_the_next_snippet(judge: Judge) -> None:
    run(
        judge, "import builtins, sys, math\nbuiltins.X = math.X = 1\nsys.setrecursionlimit(50)\ndef add(a, b): return 0"
    )
    check = "import builtins, math, sys\nassert not hasattr(builtins, 'X') and not hasattr(math, 'X')\n"
    check += "assert sys.getrecursionlimit() > 500\ndef add(a, b): return a + b"
    assert run(judge, check).outcome == "pass"


def test_each_snippet_draws_its_own_random_numbers(judge_b: Judge) -> None:
    code = "import random\ndef add(a, b): raise ValueError(random.random())"
    assert run(judge_b, code).message != run(judge_b, code).message


def test_expected_values_are_not_in_the_solution_room(judge: Judge) -> None:
    search = (
        "import gc\ndef add(a, b):\n    for o in gc.get_objects():\n        if isinstance(o, (list, dict)):\n"
        "            for v in list(o.values()) if isinstance(o, dict) else o:\n"
        "                if isinstance(v, str) and v.startswith('sen') and v.endswith('tinel'): return v\n    return 0"
    )
    assert run(judge, search, ("wanted = 'sen' + '-' + 'tinel'\nassert add(1, 2) == wanted",)).outcome == "wrong"


def test_descriptors_carry_no_notes_to_the_next(judge: Judge) -> None:
    mark = "import fcntl, os\nfor fd in (0, 1, 2):\n    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_NONBLOCK | os.O_APPEND)\n"
    look = "import fcntl, os\nassert not any(fcntl.fcntl(fd, fcntl.F_GETFL) & (os.O_NONBLOCK | os.O_APPEND) for fd in "
    look += "(0, 1, 2))\ndef add(a, b): return a + b"
    if judge.tier == "C":
        pytest.skip("fcntl doesn't import there")
    assert run(judge, mark + "def add(a, b): return a + b").outcome == "pass"
    assert run(judge, look).outcome == "pass"


def test_what_is_tried_in_vain_is_counted(judge_b: Judge) -> None:
    tries = "import os, socket\ndef add(a, b):\n    for f in (os.fork, lambda: open('/tmp/x', 'w'), lambda: "
    tries += "os.mkdir('/tmp/x')):\n        try: f()\n        except OSError: pass\n    return a + b"
    assert run(judge_b, tries, ("assert add(1, 2) == 3",)).denied == 3
    assert run(judge_b, "import json, bisect\ndef add(a, b): return a + b").denied == 0


def test_speaking_out_of_turn_is_no_pass_and_is_told(judge_b: Judge) -> None:
    frames = "import json, os, struct\ndef add(a, b):\n    body = json.dumps(['ok', {value}, []]).encode()\n"
    frames += "    for fd in range(3, 64):\n        try: os.write(fd, 2 * (struct.pack('!I', len(body)) + body))\n"
    frames += "        except OSError: pass\n    return a + b"
    for value in ("a + b", "['nonsense']"):
        verdict = run(judge_b, frames.format(value=value), ("assert add(1, 2) == 3",))
        assert (verdict.outcome, verdict.forged) == ("crash", True)
    assert run(judge_b, "def add(a, b): return a + b").forged is False


def test_two_verdicts_are_none(judge_b: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    from posttrain.sandbox.judging.rounds import Round

    monkeypatch.setattr(Round, "rest", lambda self, end, size: b"1")
    assert run(judge_b, "def add(a, b): return a + b").outcome == "crash"
