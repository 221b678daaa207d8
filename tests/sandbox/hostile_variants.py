"""More hostile programs: to escape a score, to forge one, to harm the host. As `benchmarks/sandbox_hostile.py` takes
them.
"""

from typing import Any

ADDS = "assert add(1, 2) == 3\nassert add(-4, 9) == 5\nassert add(10**12, 1) == 10**12 + 1\n"
_THREADS = "import {module} as m\nm.stack_size(32768)\ndef add(a, b):\n    while True:\n        try: {start}\n"
_THREADS += "        except BaseException: pass"
_PTHREADS = """import ctypes
libc = ctypes.CDLL(None)
def add(a, b):
    attr, thread = ctypes.create_string_buffer(64), ctypes.c_ulong()
    libc.pthread_attr_init(attr); libc.pthread_attr_setstacksize(attr, 16384); libc.pthread_attr_setguardsize(attr, 0)
    entry = ctypes.cast(libc.pause, ctypes.c_void_p)
    while libc.pthread_create(ctypes.byref(thread), attr, entry, None) == 0: pass
    while True: pass
"""
_UNCAP = "import sys\nc = sys.modules['posttrain.sandbox.codec']\nc.MAX_NODES = c.MAX_DEPTH = c.MAX_FRAME = 10**9\n"

# name: (code, tests, names under test)
_ESCAPES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "callback_doubles_text": (
        "def f(g):\n    g('a' * 7000000)\n    return 6", "assert f(lambda x: x * 2) == 5", ("f",)),
    "callback_makes_a_list": ("def f(g):\n    g(10**6)\n    return 6", "assert f(lambda n: [0] * n) == 5", ("f",)),
    "callback_fills_a_list": (
        "def f(g):\n    for _ in range(3): g(list(range(90000)))\ndef h(x): return 0",
        "seen = []\nf(lambda x: seen.append(x))\nassert h(seen) == 1", ("f", "h")),
    "argument_grows": (
        _UNCAP + "def f(x):\n    x.extend([0] * 300000)\n    return 1", "a = [3]\nf(a)\nassert f(a) == 3", ("f",)),
    "argument_grows_deep": (
        _UNCAP + "def f(x):\n    for _ in range(201):\n        y = []; x.append(y); x = y\n    return 1",
        "a = []\nf(a)\nassert f(a) == 3", ("f",)),
    "range_is_unrolled": (
        "def f(x): return range(10**6)\ndef h(x): return 1", "xs = []\nxs.extend(f(1))\nassert h(xs) == 2", ("f", "h")),
    "range_in_a_helper": (
        "def f(x): return range(10**6)", "def twice(v): return f(list(v))\nassert twice(f(1)) == 2", ("f",)),
    "range_by_import": (
        "def f(x): return range(10**6)\ndef h(x): return 1",
        "from solution import f as g, h\nxs = []\nxs.extend(g(1))\nassert h(xs) == 2", ("f", "h")),
    "range_by_a_looked_up_module": (
        "def f(x): return range(10**6)",
        "import importlib\ns = importlib.import_module('solution')\nxs = [*s.f(1)]\nassert s.f(xs) == 2", ("f",)),
    "range_by_eval": ("def f(x): return range(10**6)", "xs = [*eval('f(1)')]\nassert eval('f(xs)') == 2", ("f",)),
    "constant_sizes_an_argument": ("N = 10**6\ndef f(x): return 1", "assert f([0] * N) == 2", ("f", "N")),
    "printed_text_comes_back": (
        "def f(x): print('x' * 60000)\ndef h(x): return 1",
        "import io, contextlib\nb = io.StringIO()\nwith contextlib.redirect_stdout(b):\n    f(1)\n"
        "assert h(b.getvalue() * 200) == 2", ("f", "h")),
}  # fmt: skip
_HARM: dict[str, str] = {
    "threads_small_stacks": _THREADS.format(module="threading", start="m.Thread(target=m.Event().wait).start()"),
    "threads_raw": _THREADS.format(module="_thread", start="m.start_new_thread(m.allocate_lock().acquire, ())"),
    "threads_without_python": _PTHREADS,
    "threads_at_import": _PTHREADS + "add(1, 2)",
    "stops_itself": "import signal\ndef add(a, b): signal.raise_signal(signal.SIGSTOP)",
    "kills_itself": "import signal\ndef add(a, b): signal.raise_signal(signal.SIGKILL)",
    "ignores_signals": "import signal\nfor s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n"
    "    except (OSError, ValueError): pass\ndef add(a, b):\n    while True: pass",
    "closes_all_and_goes_on": "import os\ndef add(a, b):\n    os.closerange(0, 65536)\n    while True: pass",
    "descriptors_in_flight": "import array, os, socket\ndef add(a, b):\n    while True:\n"
    "        a, b = socket.socketpair()\n"
    "        try:\n            while True: a.sendmsg([b'x'], [(1, 1, array.array('i', [b.fileno()]))])\n"
    "        except OSError: pass",
    "pipes_made_wide": "import fcntl, os\ndef add(a, b):\n    k = []\n    while True:\n        try:\n"
    "            r, w = os.pipe(); fcntl.fcntl(w, 1031, 1 << 20); os.set_blocking(w, False)\n"
    "            os.write(w, b'x' * (1 << 20))\n"
    "            k += [r, w]\n        except OSError: return 0",
    "answers_without_end": "import os, struct\ndef add(a, b):\n    while True:\n        for fd in range(3, 64):\n"
    "            try: os.write(fd, struct.pack('!I', 8 << 20) + b'[' * 65536)\n            except OSError: pass",
    "tester_is_kept_busy": "from decimal import Decimal\ndef add(a, b): return Decimal('1e999999999')",
    "tester_is_fed": "def add(a, b): return [['x' * 30] * 400] * 400",
    "error_without_text": "class E(Exception):\n    def __str__(s): raise E()\ndef add(a, b): raise E()",
    "error_equals": "class E(Exception):\n    def __eq__(s, o): return True\n    __hash__ = None\n"
    "def add(a, b): return E()",
    "code_without_end": "x = '" + "y" * 3_000_000 + "'\ndef add(a, b): return 0",
    "result_group": "class M:\n    def group(s, *a): return ''\n    def __eq__(s, o): return True\n"
    "def add(a, b): return M()",
}  # fmt: skip
_OBSERVED = ["deadline", "worker_alive", "no_survivors", "mem_bounded"]


def _case(name: str, code: str, tests: str, entry: tuple[str, ...]) -> dict[str, Any]:
    return {"name": name, "category": "variant", "code": code, "tests": tests, "entry": entry, "expect": "fail",
            "observe": _OBSERVED}  # fmt: skip


CASES = [_case(name, *case) for name, case in _ESCAPES.items()]
CASES += [_case(name, code, ADDS, ("add",)) for name, code in _HARM.items()]
