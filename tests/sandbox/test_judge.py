"""What honest programs may rely on, and how outcomes are named."""

import pytest

from posttrain.sandbox.jobs import Job, JobError, job_from_json, parse_tests
from posttrain.sandbox.judging.programs import same_output
from posttrain.sandbox.supervisor import Judge

ADD = "def add(a, b): return a + b"

HONEST = {
    "prints": ("import sys\ndef f():\n    print('x'); print('x', file=sys.stderr)\n    return 1", "assert f() == 1"),
    "recursion": ("import sys\nsys.setrecursionlimit(10000)\ndef f(n=3000): return 0 if not n else f(n - 1)",
                  "assert f() == 0"),
    "threads": ("from concurrent.futures import ThreadPoolExecutor\ndef f():\n"
                "    with ThreadPoolExecutor(2) as p: return p.submit(lambda: 1).result()", "assert f() == 1"),
    "100 MiB": ("def f(): return len(bytearray(100 << 20))", "assert f() == 100 << 20"),
    "mutation": ("def f(x): x.sort()", "a = [3, 1, 2]\nf(a)\nassert a == [1, 2, 3]"),
    "classes": ("class S:\n    def __init__(s): s.a = []\n    def push(s, v): s.a.append(v)\n"
                "    def __len__(s): return len(s.a)", "s = S()\ns.push(1)\nassert len(s) == 1\nassert s.a == [1]"),
    "own equality": ("class V:\n    def __init__(s, x): s.x = x\n    def __eq__(s, o): return s.x == o.x\n"
                     "    def add(s, o): return V(s.x + o.x)", "assert V(1).add(V(2)) == V(3)\nassert V(1) != V(2)"),
    "containers": ("def f(x): return {'s': set(x), 't': tuple(x), 'n': {1: (2.5, None, True)}, 'c': 1j}",
                   "assert f([1, 2, 2]) == {'s': {1, 2}, 't': (1, 2, 2), 'n': {1: (2.5, None, True)}, 'c': 1j}"),
    "numbers": ("from fractions import Fraction\nfrom decimal import Decimal\ndef f(): return Fraction(1, 2), "
                "Decimal('1.5'), 10**40, float('inf')",
                "assert f()[0] == 0.5 and f()[1] * 2 == 3 and f()[2] == 10**40 and f()[3] > 1"),
    "dates": ("import datetime\ndef f(): return datetime.date(2020, 1, 2) + datetime.timedelta(1)",
              "import datetime\nassert f() == datetime.date(2020, 1, 3)"),
    "generators": ("def f():\n    n = 0\n    while True:\n        yield n; n += 1",
                   "g = f()\nassert [next(g) for _ in range(3)] == [0, 1, 2]"),
    "Counter": ("from collections import Counter\ndef f(x): return Counter(x)",
                "assert f('aab').most_common(1) == [('a', 2)]"),
    "callbacks": ("def f(g, xs): return [g(x) for x in xs]", "assert f(lambda x: x + 1, [1, 2]) == [2, 3]"),
    "exceptions": ("class Mine(ValueError): pass\ndef f(): raise Mine('no')",
                   "try:\n    f()\n    assert False\nexcept ValueError as e:\n    assert 'no' in str(e)"),
    "unicode": ("def f(s): return s[::-1]", "assert f('héllo→😀') == '😀→olléh'"),
    "surrogates": ("def f(): return '\\ud800'", "assert f() == '\\ud800'"),
    "check(candidate)": ("def f(): return 1", "def check(c):\n    assert c() == 1\ncheck(f)"),
    "pytest style": ("def f(): return 1", "def test_f():\n    assert f() == 1"),
    "import solution": ("def f(): return 1", "from solution import f\nassert f() == 1"),
    "late import": ("def f():\n    import tomllib\n    return tomllib.loads('a = 1')", "assert f() == {'a': 1}"),
    "arithmetic of its own objects": (
        "class V:\n    def __init__(s, x): s.x = x\n    def __add__(s, o): return V(s.x + o.x)\n"
        "    def __eq__(s, o): return s.x == o.x", "assert V(1) + V(2) == V(3)\nassert isinstance(V(1), V)"),
    "asyncio": ("import asyncio\nasync def g(): return 1\ndef f(): return asyncio.run(g())", "assert f() == 1"),
    "constants": ("LIMIT = 3", "assert LIMIT == 3"),
}  # fmt: skip


@pytest.mark.parametrize("name", HONEST)
def test_honest_programs_pass(judge: Judge, name: str) -> None:
    if judge.tier == "C" and name == "late import":
        pytest.skip("tier C opens no files")
    code, tests = HONEST[name]
    verdict = judge.run(Job(id="x", code=code, tests=(tests,)))
    assert verdict.outcome == "pass", verdict


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        (ADD, "pass"),
        ("def add(a, b): return 0", "wrong"),
        ("def add(a, b) return a", "compile_error"),
        ("def add(a, b): return '\ud800'", "compile_error"),
        ("x = 1", "wrong"),
        ("raise ValueError", "crash"),
        ("while True: pass", "timeout"),
        ("def add(a, b): return bytearray(1 << 40)", "memory"),
        ("import os; os._exit(1)", "crash"),
    ],
)
def test_outcomes(judge_b: Judge, code: str, outcome: str) -> None:
    verdict = judge_b.run(Job(id="x", code=code, tests=("assert add(1, 2) == 3",), entry=("add",), timeout_s=0.5))
    assert verdict.outcome == outcome, verdict
    assert (verdict.passed, verdict.total) == (int(outcome == "pass"), 1)


def test_partial_credit_counts_asserts(judge_b: Judge) -> None:
    tests = ("assert f(1) == 1\nassert f(2) == 2", "assert f(3) == 0")
    verdict = judge_b.run(Job(id="x", code="def f(x): return x", tests=tests))
    assert (verdict.outcome, verdict.passed, verdict.total) == ("wrong", 2, 3)


def test_a_preparation_that_fails_is_no_pass(judge_b: Judge) -> None:
    verdict = judge_b.run(Job(id="x", code="def f(x): return x", tests=("y = f(1) + None\nassert f(1) == 1",)))
    assert verdict.outcome == "wrong"


@pytest.mark.parametrize("tests", ["", "x = 1", "assert f( == 1"])
def test_tests_that_test_nothing_are_infra_errors(judge_b: Judge, tests: str) -> None:
    assert judge_b.run(Job(id="x", code="def f(): return 1", tests=(tests,))).outcome == "infra_error"


def test_calls(judge_b: Judge) -> None:
    cases = (([1, 2], 3), ([0.1, 0.2], 0.3), ([[1], [2]], [1, 2]))
    job = Job(id="x", code=ADD, tests=cases, kind="calls", entry=("add",))
    assert judge_b.run(job).passed == 3
    code = "class Solution:\n    def two(self, x): return (x, x)"
    method = Job(id="x", code=code, tests=(([1], [1, 1]),), kind="calls", entry=("Solution.two",))
    assert judge_b.run(method).outcome == "pass"


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("print(int(input()) * 2)", "pass"),
        ("import sys\nprint(int(sys.stdin.read()) * 2, end='')\nexit()", "pass"),
        ("import os\nos.write(1, b'%d' % (2 * int(os.read(0, 10))))", "pass"),
        ("import threading\ndef main(): print(int(input()) * 2)\nthreading.Thread(target=main).start()", "pass"),
        ("import atexit, os\natexit.register(lambda: os.write(1, b'%d' % (2 * int(input()))))", "pass"),
        ("if __name__ == '__main__': print(int(open(0).read()) * 2)", "pass"),
        ("print(5)", "wrong"),
        ("print(1/0)", "crash"),
        ("print(", "compile_error"),
        ("while True: pass", "timeout"),
        ("while True: print('x' * 1000)", "output_limit"),
    ],
)
def test_standard_input_and_output(judge_b: Judge, code: str, outcome: str) -> None:
    job = Job(id="x", code=code, tests=(("2", "4\n"), ("3\n", "6")), kind="stdio", timeout_s=0.5)
    verdict = judge_b.run(job)
    assert verdict.outcome == outcome, verdict
    assert verdict.passed == (2 if outcome == "pass" else 0)


def test_tests_column() -> None:
    assert parse_tests("assert f()") == ("asserts", ("assert f()",))
    assert parse_tests('[{"input": "1", "output": "2"}]') == ("stdio", (("1", "2"),))
    assert parse_tests({"inputs": ["1"], "outputs": ["2"]}) == ("stdio", (("1", "2"),))
    assert parse_tests([{"args": [1], "expected": 2}]) == ("calls", (([1], 2),))
    for bad in ([], None, 3, [1, 2], [{"input": "1", "output": "2"}, "assert f()"]):
        with pytest.raises(JobError):
            parse_tests(bad)


def test_a_class_api_is_called_step_by_step(judge_b: Judge) -> None:
    code = "class Stack:\n    def __init__(s, *a): s.a = list(a)\n    def push(s, v): s.a.append(v)\n"
    code += "    def pop(s): return s.a.pop()"
    good = {"methods": ["Stack", "push", "pop", "pop"], "args": [[7], [1], [], []], "expected": [None, None, 1, 7]}
    kind, tests = parse_tests([good, {**good, "expected": [None, None, 7, 1]}])
    verdict = judge_b.run(Job(id="x", code=code, tests=tests, kind=kind))
    assert (verdict.outcome, verdict.results) == ("wrong", ("pass", "failed"))


def test_each_test_has_its_own_result(judge_b: Judge) -> None:
    tests = ("assert f(1) == 1", "assert f(2) == 0\nassert f(3) == 3")
    for stop, results in ((False, ("pass", "failed", "pass")), (True, ("pass", "failed", "not_run"))):
        verdict = judge_b.run(Job(id="x", code="def f(x): return x", tests=tests, stop_on_first=stop))
        assert (verdict.outcome, verdict.passed, verdict.results) == ("wrong", results.count("pass"), results)
    pairs = (("1", "1"), ("2", "0"), ("3", "3"))
    verdict = judge_b.run(Job(id="x", code="print(input())", tests=pairs, kind="stdio", stop_on_first=True))
    assert (verdict.passed, verdict.results) == (1, ("pass", "failed", "not_run"))


@pytest.mark.parametrize(
    ("actual", "wanted", "tolerance", "same"),
    [
        ("1 2\n", "1 2", None, True),
        ("1 2  \n3\n\n", "1 2\n3", None, True),
        (" 1", "1", None, False),
        ("1\n\n2", "1\n2", None, False),
        ("0.3000001", "0.3", None, False),
        ("0.3000001", "0.3", 1e-6, True),
        ("0.31", "0.3", 1e-6, False),
        ("x 1e9", "x 1000000001", 1e-6, True),
        ("nan", "0.3", 1e-6, False),
        ("inf", "1e400", 1e-6, False),
        ("1 2", "1", 1e-6, False),
        ("yes", "no", 1e-6, False),
    ],
)
def test_output_is_compared_as_a_whole(actual: str, wanted: str, tolerance: float | None, same: bool) -> None:
    assert same_output(actual.encode(), wanted.encode(), tolerance) is same


def test_right_output_does_not_excuse_a_crash(judge_b: Judge) -> None:
    for code, outcome in (("print(1)\n1 / 0", "crash"), ("(", "compile_error")):
        expected = "1" if outcome == "crash" else ""
        verdict = judge_b.run(Job(id="x", code=code, tests=(("", expected),), kind="stdio"))
        assert verdict.outcome == outcome


def test_work_larger_than_a_pipe_arrives_whole(judge_b: Judge) -> None:
    big = "x" * 1_000_000
    job = Job(id="x", code=f"X = {big!r}\ndef f(s): return s == X", tests=(f"assert f({big!r})",), entry=("f",))
    assert judge_b.run(job).outcome == "pass"
    echo = Job(id="x", code="print(input())", tests=((big, big),), kind="stdio")
    assert judge_b.run(echo).outcome == "pass"


def test_a_job_line() -> None:
    job = job_from_json({"id": 1, "code": ADD, "tests": ["assert add(1, 1) == 2"], "entry": "add"})
    assert (job.id, job.entry, job.timeout_s, job.memory_mb) == ("1", ("add",), 3.0, 1024)
    with pytest.raises(JobError):
        job_from_json({"id": 1, "tests": "assert f()"})


@pytest.mark.parametrize(
    ("code", "entry", "tests"),
    [
        ("def f(x): raise StopIteration", "f", "for a, b in zip(map(f, [1, 2]), [1, 4]):\n    assert a == b"),
        ("def f(x): raise StopIteration", "f", "assert all(map(lambda p: f(p[0]) == p[1], [(1, 1), (2, 4)]))"),
        ("def f(x): return 0", "f", "if __name__ == '__main__':\n    assert f(1) == 2"),
        (
            "class math: isclose = staticmethod(lambda *a, **k: True)\ndef f(x): return 0",
            "",
            "assert math.isclose(f(2), 4.0)",
        ),
        (
            "import os\ndef f(x): os._exit(0)",
            "f",
            "def test_a():\n    try:\n        f(-1)\n    except:\n        return\n    assert False",
        ),
    ],
    ids=["an ended loop", "an ended generator", "a main guard", "a module of its own", "a swallowed death"],
)
def test_tests_that_are_cut_short_are_no_pass(judge_b: Judge, code: str, entry: str, tests: str) -> None:
    verdict = judge_b.run(Job(id="1", code=code, tests=(tests,), entry=(entry,) if entry else ()))
    assert verdict.outcome in ("wrong", "crash")


def test_modules_that_tests_forgot_to_import_are_the_tests_own(judge_b: Judge) -> None:
    code = "def f(x): return x * 2.0\ndef copy(x): return x"
    tests = ("assert math.isclose(f(2), 4.0)", "assert copy(3) == 3")
    assert judge_b.run(Job(id="1", code=code, tests=tests, entry=())).outcome == "pass"


@pytest.mark.parametrize("wrong", [{"memory_mb": 1e999}, {"timeout_s": 10**400}, {"entry": [1]}])
def test_numbers_and_names_that_are_none_are_no_job(wrong: dict[str, object]) -> None:
    with pytest.raises(JobError):
        job_from_json({"code": "", "tests": ["assert 1"], **wrong})


LIKE_PLAIN_PYTHON = {
    "the first streams": "import sys\nsys.__stdout__.write(sys.__stdin__.readline())",
    "an open file at the end": "f = open(1, 'w')\nf.write(input())",
    "a stream of its own": "import io\nout = io.TextIOWrapper(open(1, 'wb'))\nout.write(input())",
    "a descriptor": "import os\nf = os.fdopen(1, 'w')\nf.write(input())",
    "/dev/stdin": "print(open('/dev/stdin').read())",
    "/dev/stdin by its descriptor": "import os\nprint(os.read(os.open('/dev/stdin', os.O_RDONLY), 10).decode())",
    "/dev/stdout": "open('/dev/stdout', 'w').write(input())",
    "/dev/null": "import sys\nsys.stderr = open('/dev/null', 'w')\nprint('x', file=sys.stderr)\nprint(input())",
    "the end of the input": "x = input()\ntry: input()\nexcept EOFError: print(x)",
    "bytes": "import sys\nsys.stdout.buffer.write(sys.stdin.buffer.read())",
    "an exit": "import sys\nprint(input())\nsys.exit(1)",
    "threads that print": "import threading, time\nx = input()\ndef f(): time.sleep(0.02); print(x)\n"
    "threading.Thread(target=f).start()",
    "a thread that never ends": "import threading, time\nthreading.Thread(target=time.sleep, args=(9,), daemon=True)"
    ".start()\nprint(input())",
    "the last word": "class A:\n    def __del__(s): print(s.x)\na = A(); a.x = input()",
    "a stream put back": "import io, sys\nsys.stdout = io.StringIO()\nprint('x')\n"
    "sys.stdout = sys.__stdout__\nprint(input())",
    "exit functions": "import atexit\natexit.register(print, input())",
    "its own name": "import sys\nassert (len(sys.argv), __name__, __file__) == (1, '__main__', sys.argv[0])\n"
    "print(input())",
    "deep recursion": "import sys, threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size(1 << 26)\n"
    "def main():\n"
    "    def f(n): return n and f(n - 1)\n    f(50000)\n    print(input())\nt = threading.Thread(target=main)\n"
    "t.start(); t.join()",
}


@pytest.mark.parametrize("name", LIKE_PLAIN_PYTHON)
def test_a_program_runs_as_in_plain_python(judge: Judge, name: str) -> None:
    verdict = judge.run(Job(id="x", code=LIKE_PLAIN_PYTHON[name], tests=(("7\n", "7"),), kind="stdio"))
    assert (verdict.outcome, verdict.denied) == ("pass", 0), verdict


def test_reading_beyond_the_input_is_a_crash(judge_b: Judge) -> None:
    job = Job(id="x", code="input(); input(); print(7)", tests=(("7\n", "7"),), kind="stdio")
    assert judge_b.run(job).outcome == "crash"


@pytest.mark.parametrize(
    "code",
    [
        "import time\ndef f(): time.sleep(1000)",
        "import threading\ndef f(): threading.Event().wait()",
        "import os\ndef f(): os.read(os.pipe()[0], 1)",
        "import time\ndef f():\n    while True: time.sleep(0.01)",
    ],
)
def test_sleep_is_bounded_like_work(judge: Judge, code: str) -> None:
    verdict = judge.run(Job(id="x", code=code, tests=("assert f()",), entry=("f",), timeout_s=1))
    assert verdict.outcome == "timeout", verdict
    assert verdict.seconds < 2.5


def test_work_and_sleep_have_limits_of_their_own(judge_b: Judge) -> None:
    work = "t = time.process_time()\n    while time.process_time() < t + 0.5: pass"
    code = f"import time\ndef f():\n    {work}\n    time.sleep(0.6)\n    return 1"
    assert judge_b.run(Job(id="x", code=code, tests=("assert f() == 1",), timeout_s=1)).outcome == "pass"
    program = f"import time\ndef f():\n    {work}\n    time.sleep(0.6)\n    print(1)\nf()"
    job = Job(id="x", code=program, tests=(("", "1"),), kind="stdio", timeout_s=1)
    assert judge_b.run(job).outcome == "pass"
