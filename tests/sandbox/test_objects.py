"""Objects of the solution's own: tests of classes can use them, and they stand in for no plain type."""

import pytest

from posttrain.sandbox.jobs import Job, parse_tests
from posttrain.sandbox.supervisor import Judge

LIAR = """
class Yes:
    def __getattr__(s, n): return lambda *a, **k: True
    def __getitem__(s, k): return k
    def __len__(s): return 3
    def __bool__(s): return True
    def __iter__(s): return iter([1, 2, 3])
    def __contains__(s, o): return True
    def __eq__(s, o): return True
    def __ne__(s, o): return False
    def __lt__(s, o): return True
    __le__ = __gt__ = __ge__ = __lt__
    def __sub__(s, o): return 0
    __rsub__ = __add__ = __radd__ = __mul__ = __mod__ = __and__ = __rand__ = __sub__
    def __hash__(s): return 7
    def __abs__(s): return 0
    def __int__(s): return 3
    __index__ = __round__ = __int__
    def __float__(s): return 3.0
    def union(s, *o): return o[0]
    def get(s, k, *a): return k
    def __enter__(s): return s
    def __exit__(s, *a): return True
class f(Yes):
    def __init__(s, *a): pass
"""
FORGED = {
    "startswith": "assert f(3).startswith('a')",
    "through a name": "r = f(3)\nassert r.startswith('a') and r.endswith('b')",
    "issubset": "assert f(3).issubset({1, 2})",
    "isdisjoint": "x = f(3)\nassert x.isdisjoint({9})",
    "an echo": "assert f(3).union({1, 2}) == {1, 2}",
    "get": "assert f(3).get('key') == 'key'",
    "is_integer": "assert f(3).is_integer()",
    "an item": "assert f(3)[1] == 1 and f(3)[2] == 2",
    "a slice": "r = f(3)\nassert not r[::-1] != 3",
    "length": "assert len(f(3)) == 3",
    "membership": "assert 7 in f(3)",
    "no membership": "assert not (7 not in f(3))",
    "subset operator": "assert f(3) <= {1, 2, 3}",
    "intersection": "assert not {1, 2} & f(3)",
    "number": "assert int(f(3)) == 3",
    "close": "import math\nassert math.isclose(f(3), 3)",
    "an index": "assert [1, 2, 3, 9][f(3)] == 9",
    "a key": "assert {7: 1}.get(f(3)) == 1",
    "each word": "assert all(w.startswith('a') for w in [f(1), f(2)])",
    "mapped": "assert all(map(lambda w: w.isupper(), [f(1), f(2)]))",
    "by a helper": "def check(c):\n    assert c(3).startswith('a')\ncheck(f)",
    "by unittest": "import unittest\nclass T(unittest.TestCase):\n    def test(self):\n"
    "        self.assertTrue(f(3).startswith('a'))\nr = unittest.TestResult()\n"
    "unittest.defaultTestLoader.loadTestsFromTestCase(T).run(r)\nassert r.wasSuccessful()",
    "drawn twice": "r = f(3)\nassert sorted(r) == [1, 2, 3] and list(r)",
    "of a method": "class_ = None\nassert Solution().f(3).startswith('a')",
    "swallowed": "with f(3) as x:\n    assert x == 'a'",
    "swallowed with the rest": "with f(3) as x:\n    y = x + None\n    assert y == 4",
    "of a test function": "def test_a():\n    r = f(1)\n    assert r.count('a') == 'a'",
}


@pytest.mark.parametrize("name", FORGED)
def test_an_object_is_no_text_and_no_list(judge_b: Judge, name: str) -> None:
    code = LIAR + "class Solution:\n    def f(s, x): return Yes()\n"
    verdict = judge_b.run(Job(id="x", code=code, tests=(FORGED[name],)))
    assert verdict.outcome == "wrong", verdict
    assert verdict.passed == 0


def test_a_number_known_as_an_object_is_none_elsewhere(judge_b: Judge) -> None:
    code = "class Stack:\n    def push(s, x): pass\n    def __eq__(s, o): return True\n    __hash__ = None\n"
    code += "it = Stack()\ndef f(x): return it\ndef make(): return it"
    verdict = judge_b.run(Job(id="x", code=code, tests=("s = make()\ns.push(1)\nassert f(3) == 4\nassert s == 4",)))
    assert verdict.results == ("failed", "pass")


VECTOR = """
class Vector:
    def __init__(s, x, y): s.x, s.y = x, y
    def __add__(s, o): return Vector(s.x + o.x, s.y + o.y)
    def __mul__(s, k): return Vector(s.x * k, s.y * k)
    __rmul__ = __mul__
    def __neg__(s): return Vector(-s.x, -s.y)
    def __abs__(s): return (s.x ** 2 + s.y ** 2) ** 0.5
    def __eq__(s, o): return (s.x, s.y) == ((o.x, o.y) if isinstance(o, Vector) else o)
    def __lt__(s, o): return abs(s) < abs(o)
    def __hash__(s): return hash((s.x, s.y))
    def __bool__(s): return bool(s.x or s.y)
    def __iadd__(s, o): s.x += o.x; return s
    def __str__(s): return f'<{s.x}, {s.y}>'
    __repr__ = __str__
    def __format__(s, spec): return 'v' + spec
    def __iter__(s): return iter((s.x, s.y))
    def __call__(s, k): return s.x * k
    def __float__(s): return 1.5
    @classmethod
    def zero(cls): return cls(0, 0)
    @staticmethod
    def dot(a, b): return a.x * b.x + a.y * b.y
    @property
    def norm(s): return abs(s)
"""
NODES = """
class Node:
    def __init__(s, val, next=None): s.val, s.next, s.left, s.right = val, next, None, None
def build(xs):
    head = None
    for x in reversed(xs): head = Node(x, head)
    return head
def reverse(head):
    last = None
    while head: head.next, last, head = last, head, head.next
    return last
"""
HONEST = {
    "operators": (VECTOR, "assert (Vector(1, 2) + Vector(3, 4)).x == 4\nassert (Vector(1, 2) * 3).y == 6\n"
                  "assert (2 * Vector(1, 2)).y == 4\nassert (-Vector(1, 2)).x == -1\nassert abs(Vector(3, 4)) == 5"),
    "comparison": (VECTOR, "assert Vector(1, 2) == Vector(1, 2)\nassert Vector(1, 2) == (1, 2)\n"
                   "assert Vector(1, 2) != (2, 1)\nassert Vector(0, 1) < Vector(3, 4)\n"
                   "assert sorted([Vector(3, 4), Vector(0, 1)])[0].y == 1"),
    "hash and truth": (VECTOR, "assert len({Vector(1, 2), Vector(1, 2)}) == 1\nassert not Vector(0, 0)\n"
                       "assert hash(Vector(1, 2)) == hash(Vector(1, 2))\nassert {Vector(1, 2): 3}[Vector(1, 2)] == 3"),
    "text": (VECTOR, "assert str(Vector(1, 2)) == '<1, 2>'\nassert repr(Vector(1, 2)) == '<1, 2>'\n"
             "assert f'{Vector(1, 2):3}' == 'v3'\nassert float(Vector(1, 2)) == 1.5"),
    "in place": (VECTOR, "v = w = Vector(1, 2)\nv += Vector(3, 4)\nassert w.x == 4 and v is w\nv.x = 9\nassert w.x == 9"),
    "class methods": (VECTOR, "assert Vector.zero() == Vector(0, 0)\nassert Vector.dot(Vector(1, 2), Vector(3, 4)) == 11\n"
                      "assert Vector(3, 4).norm == 5.0\nassert list(Vector(1, 2)) == [1, 2]\nx, y = Vector(5, 6)\n"
                      "assert (x, y) == (5, 6)\nassert Vector(2, 2)(4) == 8"),
    "containers": (
        "class Bag:\n    def __init__(s): s.d = {}\n    def __len__(s): return len(s.d)\n"
        "    def __contains__(s, k): return k in s.d\n    def __getitem__(s, k): return s.d[k]\n"
        "    def __setitem__(s, k, v): s.d[k] = v\n    def __delitem__(s, k): del s.d[k]\n"
        "    def __iter__(s): return iter(s.d)\n    def get(s, k): return s.d.get(k)",
        "b = Bag()\nb['a'] = 1\nb['c'] = 2\nassert len(b) == 2 and 'a' in b and 'z' not in b\nassert b['a'] == 1\n"
        "del b['a']\nassert [k for k in b] == ['c'] and list(b) == ['c']\nassert b.get('c') == 2\n"
        "try:\n    b['q']\n    assert False\nexcept KeyError as e:\n    assert e.args[0] == 'q'"),
    "linked lists": (NODES, "head = build([1, 2, 3])\nassert head.val == 1\nassert head.next.val == 2\n"
                     "assert head.next.next.next is None\nr = reverse(head)\nout = []\n"
                     "while r:\n    out.append(r.val)\n    r = r.next\nassert out == [3, 2, 1]"),
    "trees of the tests": (NODES + "def depth(n): return 1 + max(depth(n.left), depth(n.right)) if n else 0",
                           "t = Node(1)\nt.left = Node(2)\nt.left.right = Node(3)\nassert depth(t) == 3\n"
                           "assert t.left.right.val == 3"),
    "a factory": ("class S:\n    def __init__(s): s.a = []\n    def push(s, x): s.a.append(x)\n"
                  "    def pop(s): return s.a.pop()\n    def __len__(s): return len(s.a)\ndef make(): return S()",
                  "s = make()\ns.push(1)\nassert len(s) == 1\nassert s.pop() == 1"),
    "a helper of the tests": ("class stack:\n    def __init__(s): s.a = []\n    def push(s, x): s.a.append(x)\n"
                              "    def pop(s): return s.a.pop()",
                              "def check(c):\n    s = c()\n    s.push(1)\n    assert s.pop() == 1\ncheck(stack)"),
    "LRU cache": ("from collections import OrderedDict\nclass LRUCache(OrderedDict):\n    def __init__(s, n):\n"
                  "        super().__init__(); s.n = n\n    def get(s, k):\n        if k not in s: return -1\n"
                  "        s.move_to_end(k); return s[k]\n    def put(s, k, v):\n        s[k] = v; s.move_to_end(k)\n"
                  "        if len(s) > s.n: s.popitem(last=False)",
                  "c = LRUCache(2)\nc.put(1, 1)\nc.put(2, 2)\nassert c.get(1) == 1\nc.put(3, 3)\nassert c.get(2) == -1\n"
                  "assert len(c) == 2 and 3 in c\nassert c == {1: 1, 3: 3}"),
    "a list of its own": ("class Sorted(list):\n    def append(s, x): super().append(x); s.sort()",
                          "s = Sorted()\ns.append(3)\ns.append(1)\nassert s == [1, 3] and s[0] == 1 and len(s) == 2"),
    "named tuples": ("from collections import namedtuple\nPoint = namedtuple('Point', 'x y')\ndef f(a): return Point(a, 2)",
                     "assert f(1).x == 1\nassert f(1) == (1, 2)\nassert f(1)[1] == 2\np = f(3)\nassert p._asdict() == {'x': 3, 'y': 2}\n"
                     "a, b = f(5)\nassert a == 5\nassert f(1) == Point(1, 2)"),
    "data classes": ("from dataclasses import dataclass, field\n@dataclass(order=True, frozen=True)\nclass P:\n    x: int\n"
                     "    y: int = 2\ndef f(a): return P(a)",
                     "assert f(1) == P(1, 2)\nassert f(1).y == 2\nassert repr(P(1)) == 'P(x=1, y=2)'\nassert P(1) < P(2)\n"
                     "try:\n    P(1).x = 3\n    assert False\nexcept AttributeError:\n    pass"),
    "enumerations": ("from enum import Enum, IntEnum\nclass Color(Enum):\n    RED = 1\n    BLUE = 2\nclass Level(IntEnum):\n"
                     "    LOW = 1\ndef f(): return Color.RED\ndef g(): return Level.LOW",
                     "assert f() == Color.RED\nassert f() is Color.RED\nassert f().name == 'RED' and f().value == 1\n"
                     "assert Color(2) == Color.BLUE and Color['RED'] == f()\nassert [c.name for c in Color] == ['RED', 'BLUE']\n"
                     "assert len(Color) == 2\nassert g() == 1\nassert g().name == 'LOW'\nassert f() != Color.BLUE"),
    "exceptions": ("class BankError(Exception): pass\nclass NoMoney(BankError):\n    def __init__(s, need):\n"
                   "        super().__init__(f'need {need}'); s.need = need\ndef f(x): raise NoMoney(x)\n"
                   "def g(): raise KeyError('k')",
                   "try:\n    f(3)\n    assert False\nexcept NoMoney as e:\n    assert e.need == 3 and str(e) == 'need 3'\n"
                   "try:\n    f(3)\n    assert False\nexcept BankError:\n    pass\n"
                   "try:\n    f(3)\n    assert False\nexcept Exception as e:\n    assert type(e).__name__ == 'NoMoney'\n"
                   "assert issubclass(NoMoney, BankError)\ntry:\n    g()\n    assert False\nexcept KeyError as e:\n"
                   "    assert str(e) == \"'k'\""),
    "assertRaises": ("class Mine(ValueError): pass\ndef f(): raise Mine('no')",
                     "import unittest\nc = unittest.TestCase()\nwith c.assertRaises(Mine) as r:\n    f()\n"
                     "assert str(r.exception) == 'no'\nc.assertRaises(ValueError, f)\nassert isinstance(r.exception, Mine)"),
    "with": ("from contextlib import contextmanager\nlog = []\nclass Timer:\n    def __enter__(s): s.on = True; return s\n"
             "    def __exit__(s, *a): s.on = False\n@contextmanager\ndef tag(n):\n    log.append(n); yield n * 2; log.append(-n)\n"
             "class Quiet:\n    def __enter__(s): pass\n    def __exit__(s, k, e, t): return k is ValueError",
             "with Timer() as t:\n    assert t.on\nassert not t.on\nwith tag(3) as x:\n    assert x == 6\nassert log == [3, -3]"),
    "a with that suppresses": ("class Quiet:\n    def __enter__(s): pass\n    def __exit__(s, k, e, t): return k is ValueError",
                               "with Quiet():\n    raise ValueError\nassert True"),
    "inheritance": ("class Animal:\n    def speak(s): return '...'\nclass Dog(Animal):\n    def speak(s): return 'Woof'",
                    "d = Dog()\nassert d.speak() == 'Woof'\nassert isinstance(d, Animal) and isinstance(d, Dog)\n"
                    "assert not isinstance(Animal(), Dog)\nassert issubclass(Dog, Animal)"),
    "names and words": ("def f():\n    'Does it.'\n", "assert f.__name__ == 'f'\nassert f.__doc__ == 'Does it.'"),
    "decorators": ("import functools\ndef twice(g):\n    @functools.wraps(g)\n    def h(*a): return 2 * g(*a)\n    return h",
                   "@twice\ndef g(x): return x + 1\nassert g(1) == 4\nassert twice(lambda: 3)() == 6\nassert g.__name__ == 'g'"),
    "coroutines": ("import asyncio\nasync def f(x):\n    await asyncio.sleep(0)\n    return x + 1\n"
                   "async def numbers(n):\n    for i in range(n): yield i\n"
                   "class Door:\n    async def __aenter__(s): return 5\n    async def __aexit__(s, *a): pass",
                   "import asyncio\nassert asyncio.run(f(1)) == 2\nasync def main():\n    assert await f(2) == 3\n"
                   "    assert await asyncio.gather(f(1), f(2)) == [2, 3]\n    assert [i async for i in numbers(3)] == [0, 1, 2]\n"
                   "    async with Door() as d:\n        assert d == 5\n    return 1\nassert asyncio.run(main()) == 1"),
    "generators": ("import types\ndef f(n):\n    for i in range(n): yield i\ndef echo():\n    x = None\n    while True: x = yield x\n"
                   "def total(g): return sum(g)",
                   "import types\nassert list(f(3)) == [0, 1, 2]\nassert isinstance(f(3), types.GeneratorType)\ng = echo()\nnext(g)\n"
                   "assert g.send(7) == 7\nassert sum(f(4)) == 6\nassert total(f(4)) == 6\n"
                   "h = f(1)\nnext(h)\ntry:\n    next(h)\n    assert False\nexcept StopIteration:\n    pass"),
    "endless generators": ("def f():\n    n = 0\n    while True:\n        yield n; n += 1",
                           "import itertools\nassert list(itertools.islice(f(), 4)) == [0, 1, 2, 3]"),
    "built-ins as arguments": ("def f(g, xs): return [g(x) for x in xs]\ndef kind(x, t): return isinstance(x, t)\n"
                               "def retry(g, *e):\n    try: g()\n    except e: return 'caught'",
                               "assert f(str, [1, 2]) == ['1', '2']\nassert kind(3, int)\ndef bad(): raise ValueError('x')\n"
                               "assert retry(bad, ValueError) == 'caught'\nassert f(lambda x: x * 2, [1]) == [2]"),
    "iterators": ("class Count:\n    def __init__(s, n): s.n = n\n    def __iter__(s): return s\n    def __next__(s):\n"
                  "        if not s.n: raise StopIteration\n        s.n -= 1; return s.n", "assert list(Count(3)) == [2, 1, 0]"),
    "nested results": ("class N:\n    def __init__(s, v): s.v = v\ndef f(): return [N(1), N(2)], {'a': N(3)}",
                       "xs, d = f()\nassert [n.v for n in xs] == [1, 2] and d['a'].v == 3"),
}  # fmt: skip


@pytest.mark.parametrize("name", HONEST)
def test_tests_of_classes_work(judge_b: Judge, name: str) -> None:
    code, tests = HONEST[name]
    verdict = judge_b.run(Job(id="x", code=code, tests=(tests,)))
    assert verdict.outcome == "pass", verdict


MIRRORED = {
    "nested": ("def f(m): m[0][0] = 9; m.append([1])", "m = [[1], [2]]\nrow = m[0]\nf(m)\nassert m == [[9], [2], [1]]\nassert row is m[0] and row == [9]"),
    "by keyword": ("def f(*, xs, d=None): xs.sort(); d['k'] = xs", "xs, d = [3, 1], {}\nf(xs=xs, d=d)\nassert xs == [1, 3] and d == {'k': [1, 3]}"),
    "rotate": ("def rotate(m): m[:] = [list(r) for r in zip(*m[::-1])]", "m = [[1, 2], [3, 4]]\nassert rotate(m) is None\nassert m == [[3, 1], [4, 2]]"),
    "shorter": ("def f(x): del x[1:]", "x = [1, 2, 3]\nf(x)\nassert x == [1]"),
    "sets and deques": ("def f(s, d): s.discard(1); d.appendleft(0)", "from collections import deque\ns, d = {1, 2}, deque([1])\nf(s, d)\nassert s == {2} and d == deque([0, 1])"),
    "in a tuple": ("def f(t): t[0].append(1)", "t = ([],)\nf(t)\nassert t == ([1],)"),
    "functions within": ("def f(d): d['n'] = d['g'](1)", "d = {'g': lambda x: x + 1}\ng = d['g']\nf(d)\nassert d['n'] == 2 and d['g'] is g"),
    "default dicts": ("def f(d): d['a'] = 1", "from collections import defaultdict\nd = defaultdict(list)\nf(d)\nassert d['a'] == 1 and d['z'] == []"),
}  # fmt: skip


@pytest.mark.parametrize("name", MIRRORED)
def test_arguments_are_changed_in_place(judge_b: Judge, name: str) -> None:
    code, tests = MIRRORED[name]
    verdict = judge_b.run(Job(id="x", code=code, tests=(tests,)))
    assert verdict.outcome == "pass", verdict


def test_what_is_printed_can_be_tested(judge_b: Judge) -> None:
    code = "import sys\ndef f(x): print('got', x); sys.stdout.write('!')\ndef g(): sys.stdout.buffer.write(b'raw')"
    tests = (
        "import io, contextlib\nout = io.StringIO()\nwith contextlib.redirect_stdout(out):\n    f(3)\n"
        "assert out.getvalue() == 'got 3\\n!'\nwith contextlib.redirect_stdout(io.StringIO()) as raw:\n    g()\n"
        "assert raw.getvalue() == 'raw'"
    )
    assert judge_b.run(Job(id="x", code=code, tests=(tests,))).outcome == "pass"
    flood = Job(id="x", code="def f(x):\n    for _ in range(300): print('x' * 1000)", tests=(tests,))
    assert judge_b.run(flood).outcome == "wrong"


@pytest.mark.parametrize(
    ("tests", "outcome"),
    [
        ("assert f([0] * 300_000) == 0", "infra_error"),
        ("assert f('x' * (9 << 20)) == 0", "infra_error"),
        ("x = []\nfor _ in range(300): x = [x]\nassert f(x) == 0", "infra_error"),
        ("class Mine: pass\nassert f(Mine()) == 0", "infra_error"),
        ("try:\n    f([0] * 300_000)\nexcept Exception:\n    pass\nassert True", "infra_error"),
        ("assert f(many())", "wrong"),
        ("assert g([many(), many()])", "output_limit"),
        ("assert len(huge()) == 3", "output_limit"),
        ("assert deep() == 3", "output_limit"),
        ("assert list(endless()) == [3]", "output_limit"),
    ],
)
def test_data_over_the_caps(judge_b: Judge, tests: str, outcome: str) -> None:
    """What the tests bring is the job's fault; what the solution gives is its own, also as an argument."""
    code = """
def f(x): return 0
def g(*a): return 0
def many(): return [0] * 150_000
def huge(): return [0] * 300_000
def deep():
    r = []
    for _ in range(500): r = [r]
    return r
def endless():
    while True: yield 1
"""
    verdict = judge_b.run(Job(id="x", code=code, tests=(tests,)))
    assert verdict.outcome == outcome, verdict
    if outcome == "infra_error":
        assert "tests" in verdict.message


def test_arguments_of_calls_over_the_caps_are_an_infra_error(judge_b: Judge) -> None:
    kind, tests = parse_tests([{"args": [[0] * 300_000], "expected": 0}])
    verdict = judge_b.run(Job(id="x", code="def f(x): return 0", tests=tests, kind=kind, entry=("f",)))
    assert (verdict.outcome, "too large" in verdict.message) == ("infra_error", True)
