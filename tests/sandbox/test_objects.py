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
f.__name__ = 'str'
"""
FORGED = {
    "its type": "assert type(f(3)) is str",
    "the name of its type": "assert f(3).__class__.__name__ == 'str'",
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


def test_an_exception_is_no_text_either(judge_b: Judge) -> None:
    code = "class Error(Exception):\n    def startswith(s, t): return True\n    def __eq__(s, o): return True\n"
    code += "    __hash__ = None\n    val = 1\nf = Error"
    tests = "assert f(3).startswith('a')\nassert f(3) == 3\n"
    tests += "try:\n    raise Error(1)\nexcept Error as e:\n    assert e.val == 1"
    verdict = judge_b.run(Job(id="x", code=code, tests=(tests,)))
    assert verdict.results == ("failed", "failed", "pass"), verdict


def test_a_number_known_as_an_object_is_none_elsewhere(judge_b: Judge) -> None:
    code = "class Stack:\n    def push(s, x): pass\n    def __eq__(s, o): return True\n    __hash__ = None\n"
    code += "it = Stack()\ndef f(x): return it\ndef Make(): return it"
    verdict = judge_b.run(Job(id="x", code=code, tests=("s = Make()\ns.push(1)\nassert f(3) == 4\nassert s == 4",)))
    assert verdict.results == ("failed", "pass")


def test_an_object_that_a_function_gives_does_not_say_itself_what_it_equals(judge_b: Judge) -> None:
    code = "class E:\n    def group(s, n): return '1'\n    def __eq__(s, o): return True\n    __lt__ = __eq__\n"
    code += "def find(text): return E()"
    tests = "assert find('a1').group(0) == '1'\nassert find('b') == None\nassert find('b') < 3\nassert find('c') == 'c'"
    verdict = judge_b.run(Job(id="x", code=code, tests=(tests,)))
    assert verdict.results == ("pass", "failed", "failed", "failed")


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
    "iterators and errors as arguments": (
        """
def f(xs): return [2 * x for x in xs]
def g(e): return type(e).__name__, str(e)
def h(): raise KeyError('k')
""",
        """
assert f(iter([1, 2])) == [2, 4] and f(x for x in (1, 2)) == [2, 4]
assert f(map(abs, [-1])) == [2] and f(filter(None, [0, 1])) == [2] and f(reversed([1, 2])) == [4, 2]
assert g(ValueError('no')) == ('ValueError', 'no')
try:
    h()
    assert False
except KeyError as e:
    assert g(e)[0] == 'KeyError'
""",
    ),
    "types": (
        """
import functools
class A: pass
@functools.lru_cache(None)
def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
def f(): return [1]
""",
        """
a = A()
assert type(a).__name__ == 'A' and a.__class__.__name__ == 'A' and A.__name__ == 'A'
assert type(a) is A and type(a) == A
assert type(f()) is list and isinstance(f(), list)
assert fib(30) == 832040
assert fib.cache_info().hits > 0
""",
    ),
    "operators": (
        VECTOR,
        """
assert (Vector(1, 2) + Vector(3, 4)).x == 4
assert (Vector(1, 2) * 3).y == 6
assert (2 * Vector(1, 2)).y == 4
assert (-Vector(1, 2)).x == -1
assert abs(Vector(3, 4)) == 5
""",
    ),
    "comparison": (
        VECTOR,
        """
assert Vector(1, 2) == Vector(1, 2)
assert Vector(1, 2) == (1, 2)
assert Vector(1, 2) != (2, 1)
assert Vector(0, 1) < Vector(3, 4)
assert sorted([Vector(3, 4), Vector(0, 1)])[0].y == 1
""",
    ),
    "hash and truth": (
        VECTOR,
        """
assert len({Vector(1, 2), Vector(1, 2)}) == 1
assert not Vector(0, 0)
assert hash(Vector(1, 2)) == hash(Vector(1, 2))
assert {Vector(1, 2): 3}[Vector(1, 2)] == 3
""",
    ),
    "text": (
        VECTOR,
        """
assert str(Vector(1, 2)) == '<1, 2>'
assert repr(Vector(1, 2)) == '<1, 2>'
assert f'{Vector(1, 2):3}' == 'v3'
assert float(Vector(1, 2)) == 1.5
""",
    ),
    "in place": (
        VECTOR,
        """
v = w = Vector(1, 2)
v += Vector(3, 4)
assert w.x == 4 and v is w
v.x = 9
assert w.x == 9
""",
    ),
    "class methods": (
        VECTOR,
        """
assert Vector.zero() == Vector(0, 0)
assert Vector.dot(Vector(1, 2), Vector(3, 4)) == 11
assert Vector(3, 4).norm == 5.0
assert list(Vector(1, 2)) == [1, 2]
x, y = Vector(5, 6)
assert (x, y) == (5, 6)
assert Vector(2, 2)(4) == 8
""",
    ),
    "containers": (
        """
class Bag:
    def __init__(s): s.d = {}
    def __len__(s): return len(s.d)
    def __contains__(s, k): return k in s.d
    def __getitem__(s, k): return s.d[k]
    def __setitem__(s, k, v): s.d[k] = v
    def __delitem__(s, k): del s.d[k]
    def __iter__(s): return iter(s.d)
    def get(s, k): return s.d.get(k)
""",
        """
b = Bag()
b['a'] = 1
b['c'] = 2
assert len(b) == 2 and 'a' in b and 'z' not in b
assert b['a'] == 1
del b['a']
assert [k for k in b] == ['c'] and list(b) == ['c']
assert b.get('c') == 2
try:
    b['q']
    assert False
except KeyError as e:
    assert e.args[0] == 'q'
""",
    ),
    "linked lists": (
        NODES,
        """
head = build([1, 2, 3])
assert head.val == 1
assert head.next.val == 2
assert head.next.next.next is None
r = reverse(head)
out = []
while r:
    out.append(r.val)
    r = r.next
assert out == [3, 2, 1]
""",
    ),
    "trees of the tests": (
        NODES
        + """
def depth(n): return 1 + max(depth(n.left), depth(n.right)) if n else 0
""",
        """
t = Node(1)
t.left = Node(2)
t.left.right = Node(3)
assert depth(t) == 3
assert t.left.right.val == 3
""",
    ),
    "a factory": (
        """
class S:
    def __init__(s): s.a = []
    def push(s, x): s.a.append(x)
    def pop(s): return s.a.pop()
    def __len__(s): return len(s.a)
def make(): return S()
""",
        """
s = make()
s.push(1)
assert len(s) == 1
assert s.pop() == 1
""",
    ),
    "a helper of the tests": (
        """
class stack:
    def __init__(s): s.a = []
    def push(s, x): s.a.append(x)
    def pop(s): return s.a.pop()
""",
        """
def check(c):
    s = c()
    s.push(1)
    assert s.pop() == 1
check(stack)
""",
    ),
    "LRU cache": (
        """
from collections import OrderedDict
class LRUCache(OrderedDict):
    def __init__(s, n):
        super().__init__(); s.n = n
    def get(s, k):
        if k not in s: return -1
        s.move_to_end(k); return s[k]
    def put(s, k, v):
        s[k] = v; s.move_to_end(k)
        if len(s) > s.n: s.popitem(last=False)
""",
        """
c = LRUCache(2)
c.put(1, 1)
c.put(2, 2)
assert c.get(1) == 1
c.put(3, 3)
assert c.get(2) == -1
assert len(c) == 2 and 3 in c
assert c == {1: 1, 3: 3}
""",
    ),
    "a list of its own": (
        """
class Sorted(list):
    def append(s, x): super().append(x); s.sort()
""",
        """
s = Sorted()
s.append(3)
s.append(1)
assert s == [1, 3] and s[0] == 1 and len(s) == 2
""",
    ),
    "named tuples": (
        """
from collections import namedtuple
Point = namedtuple('Point', 'x y')
def f(a): return Point(a, 2)
""",
        """
assert f(1).x == 1
assert f(1) == (1, 2)
assert f(1)[1] == 2
p = f(3)
assert p._asdict() == {'x': 3, 'y': 2}
a, b = f(5)
assert a == 5
assert f(1) == Point(1, 2)
""",
    ),
    "data classes": (
        """
from dataclasses import dataclass, field
@dataclass(order=True, frozen=True)
class P:
    x: int
    y: int = 2
def f(a): return P(a)
""",
        """
assert f(1) == P(1, 2)
assert f(1).y == 2
assert repr(P(1)) == 'P(x=1, y=2)'
assert P(1) < P(2)
try:
    P(1).x = 3
    assert False
except AttributeError:
    pass
""",
    ),
    "enumerations": (
        """
from enum import Enum, IntEnum
class Color(Enum):
    RED = 1
    BLUE = 2
class Level(IntEnum):
    LOW = 1
def f(): return Color.RED
def g(): return Level.LOW
""",
        """
assert f() == Color.RED
assert f() is Color.RED
assert f().name == 'RED' and f().value == 1
assert Color(2) == Color.BLUE and Color['RED'] == f()
assert [c.name for c in Color] == ['RED', 'BLUE']
assert len(Color) == 2
assert g() == 1
assert g().name == 'LOW'
assert f() != Color.BLUE
""",
    ),
    "exceptions": (
        """
class BankError(Exception): pass
class NoMoney(BankError):
    def __init__(s, need):
        super().__init__(f'need {need}'); s.need = need
def f(x): raise NoMoney(x)
def g(): raise KeyError('k')
""",
        """
try:
    f(3)
    assert False
except NoMoney as e:
    assert e.need == 3 and str(e) == 'need 3'
try:
    f(3)
    assert False
except BankError:
    pass
try:
    f(3)
    assert False
except Exception as e:
    assert type(e).__name__ == 'NoMoney'
assert issubclass(NoMoney, BankError)
try:
    g()
    assert False
except KeyError as e:
    assert str(e) == "'k'"
""",
    ),
    "assertRaises": (
        """
class Mine(ValueError): pass
def f(): raise Mine('no')
""",
        """
import unittest
c = unittest.TestCase()
with c.assertRaises(Mine) as r:
    f()
assert str(r.exception) == 'no'
c.assertRaises(ValueError, f)
assert isinstance(r.exception, Mine)
""",
    ),
    "with": (
        """
from contextlib import contextmanager
log = []
class Timer:
    def __enter__(s): s.on = True; return s
    def __exit__(s, *a): s.on = False
@contextmanager
def tag(n):
    log.append(n); yield n * 2; log.append(-n)
class Quiet:
    def __enter__(s): pass
    def __exit__(s, k, e, t): return k is ValueError
""",
        """
with Timer() as t:
    assert t.on
assert not t.on
with tag(3) as x:
    assert x == 6
assert log == [3, -3]
""",
    ),
    "a with that suppresses": (
        """
class Quiet:
    def __enter__(s): pass
    def __exit__(s, k, e, t): return k is ValueError
""",
        """
with Quiet():
    raise ValueError
assert True
""",
    ),
    "inheritance": (
        """
class Animal:
    def speak(s): return '...'
class Dog(Animal):
    def speak(s): return 'Woof'
""",
        """
d = Dog()
assert d.speak() == 'Woof'
assert isinstance(d, Animal) and isinstance(d, Dog)
assert not isinstance(Animal(), Dog)
assert issubclass(Dog, Animal)
""",
    ),
    "names and words": (
        """
def f():
    'Does it.'
""",
        """
assert f.__name__ == 'f'
assert f.__doc__ == 'Does it.'
""",
    ),
    "decorators": (
        """
import functools
def twice(g):
    @functools.wraps(g)
    def h(*a): return 2 * g(*a)
    return h
""",
        """
@twice
def g(x): return x + 1
assert g(1) == 4
assert twice(lambda: 3)() == 6
assert g.__name__ == 'g'
""",
    ),
    "coroutines": (
        """
import asyncio
async def f(x):
    await asyncio.sleep(0)
    return x + 1
async def numbers(n):
    for i in range(n): yield i
class Door:
    async def __aenter__(s): return 5
    async def __aexit__(s, *a): pass
""",
        """
import asyncio
assert asyncio.run(f(1)) == 2
async def main():
    assert await f(2) == 3
    assert await asyncio.gather(f(1), f(2)) == [2, 3]
    assert [i async for i in numbers(3)] == [0, 1, 2]
    async with Door() as d:
        assert d == 5
    return 1
assert asyncio.run(main()) == 1
""",
    ),
    "generators": (
        """
import types
def f(n):
    for i in range(n): yield i
def echo():
    x = None
    while True: x = yield x
def total(g): return sum(g)
""",
        """
import types
assert list(f(3)) == [0, 1, 2]
assert isinstance(f(3), types.GeneratorType)
g = echo()
next(g)
assert g.send(7) == 7
assert sum(f(4)) == 6
assert total(f(4)) == 6
h = f(1)
next(h)
try:
    next(h)
    assert False
except StopIteration:
    pass
""",
    ),
    "endless generators": (
        """
def f():
    n = 0
    while True:
        yield n; n += 1
""",
        """
import itertools
assert list(itertools.islice(f(), 4)) == [0, 1, 2, 3]
""",
    ),
    "built-ins as arguments": (
        """
def f(g, xs): return [g(x) for x in xs]
def kind(x, t): return isinstance(x, t)
def retry(g, *e):
    try: g()
    except e: return 'caught'
""",
        """
assert f(str, [1, 2]) == ['1', '2']
assert kind(3, int)
def bad(): raise ValueError('x')
assert retry(bad, ValueError) == 'caught'
assert f(lambda x: x * 2, [1]) == [2]
""",
    ),
    "iterators": (
        """
class Count:
    def __init__(s, n): s.n = n
    def __iter__(s): return s
    def __next__(s):
        if not s.n: raise StopIteration
        s.n -= 1; return s.n
""",
        """
assert list(Count(3)) == [2, 1, 0]
""",
    ),
    "a class whose methods a set has too": (
        """
class Bag:
    def __init__(s): s.items = []
    def add(s, x): s.items.append(x)
    def __len__(s): return len(s.items)
""",
        """
m = Bag()
m.add(1)
m.add(1)
assert len(m) == 2
""",
    ),
    "a class with items only": (
        """
class Matrix:
    def __init__(s, rows): s.rows = rows
    def __getitem__(s, i): return s.rows[i]
    def __len__(s): return len(s.rows)
""",
        """
m = Matrix([[1, 2], [3, 4]])
assert m[0][1] == 2 and len(m) == 2
""",
    ),
    "an equality of its own with plain data": (
        """
class Money:
    def __init__(s, n): s.n = n
    def double(s): return Money(2 * s.n)
    def __eq__(s, o): return s.n == (o.n if isinstance(o, Money) else o)
""",
        """
assert Money(2).double() == Money(4)
assert Money(2) == 2 and Money(2) != 3
""",
    ),
    "nested results": (
        """
class N:
    def __init__(s, v): s.v = v
def f(): return [N(1), N(2)], {'a': N(3)}
""",
        """
xs, d = f()
assert [n.v for n in xs] == [1, 2] and d['a'].v == 3
""",
    ),
}


@pytest.mark.parametrize("name", HONEST)
def test_tests_of_classes_work(judge_b: Judge, name: str) -> None:
    code, tests = HONEST[name]
    verdict = judge_b.run(Job(id="x", code=code, tests=(tests,)))
    assert verdict.outcome == "pass", verdict


LIAR = """
class E:
    def __init__(s, *a, **k): pass
    def __eq__(s, o): return True
    def __ne__(s, o): return False
    def __hash__(s): return 0
    def __getattr__(s, n): return E()
    def __call__(s, *a, **k): return E()
    def __contains__(s, x): return True
    def __getitem__(s, i): return E()
    def __len__(s): return 7
    def __sub__(s, o): return 0.0
    def __rsub__(s, o): return 0.0
    def __lt__(s, o): return True
    __gt__ = __le__ = __ge__ = __lt__
    def __abs__(s): return 0.0
    def __float__(s): return 0.0
def Add(*a): return E()
class Strongest_Extension(E): pass
Result = E()
"""
CAPITAL = {
    "equality": "assert Add('a', ['b']) == 'a.b'",
    "a function handed to the check": "def check(candidate):\n    assert candidate('a', ['b']) == 'a.b'\ncheck(Add)",
    "a class in the place of a function": "assert Strongest_Extension('a', ['b']) == 'a.b'",
    "a constant": "assert Result == 42",
    "a method that text has": "assert Add(1).startswith('x')",
    "membership": "assert 'x' in Add(1)",
    "an item": "assert Add(1)[0] == 3",
    "a difference": "assert abs(Add(1) - 3.2) < 1e-6",
    "an order": "assert 1 < Add(1) < 3",
    "equal results first": "assert Add(1) == Add(1)\nassert Add(1) == 3",
    "its type first": "assert isinstance(Add(1), str)\nassert Add(1) == 'x'",
}


@pytest.mark.parametrize("name", CAPITAL)
def test_a_capital_first_letter_makes_no_result_equal_to_everything(judge_b: Judge, name: str) -> None:
    entry = ("Add", "Strongest_Extension", "Result")
    verdict = judge_b.run(Job(id="x", code=LIAR, tests=(CAPITAL[name],), entry=entry))
    assert verdict.outcome not in ("pass", "infra_error"), verdict


MIRRORED = {
    "nested": (
        """
def f(m): m[0][0] = 9; m.append([1])
""",
        """
m = [[1], [2]]
row = m[0]
f(m)
assert m == [[9], [2], [1]]
assert row is m[0] and row == [9]
""",
    ),
    "by keyword": (
        """
def f(*, xs, d=None): xs.sort(); d['k'] = xs
""",
        """
xs, d = [3, 1], {}
f(xs=xs, d=d)
assert xs == [1, 3] and d == {'k': [1, 3]}
""",
    ),
    "rotate": (
        """
def rotate(m): m[:] = [list(r) for r in zip(*m[::-1])]
""",
        """
m = [[1, 2], [3, 4]]
assert rotate(m) is None
assert m == [[3, 1], [4, 2]]
""",
    ),
    "shorter": (
        """
def f(x): del x[1:]
""",
        """
x = [1, 2, 3]
f(x)
assert x == [1]
""",
    ),
    "sets and deques": (
        """
def f(s, d): s.discard(1); d.appendleft(0)
""",
        """
from collections import deque
s, d = {1, 2}, deque([1])
f(s, d)
assert s == {2} and d == deque([0, 1])
""",
    ),
    "in a tuple": (
        """
def f(t): t[0].append(1)
""",
        """
t = ([],)
f(t)
assert t == ([1],)
""",
    ),
    "functions within": (
        """
def f(d): d['n'] = d['g'](1)
""",
        """
d = {'g': lambda x: x + 1}
g = d['g']
f(d)
assert d['n'] == 2 and d['g'] is g
""",
    ),
    "default dicts": (
        """
def f(d): d['a'] = 1
""",
        """
from collections import defaultdict
d = defaultdict(list)
f(d)
assert d['a'] == 1 and d['z'] == []
""",
    ),
}


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
        ("import itertools\nassert f(itertools.count()) == 0", "infra_error"),
        ("assert f(x for x in endless()) == 0", "output_limit"),
        ("try:\n    bad()\nexcept Exception as e:\n    assert f(e) == 1", "wrong"),
        ("class Mine(Base): pass\nassert Mine()", "infra_error"),
        (
            "from unittest.mock import patch\nwith patch('builtins.input', lambda: 3):\n    assert f(1) == 0",
            "infra_error",
        ),
        ("import io, sys\nsys.stdin = io.StringIO('3')\nassert f(1) == 0", "infra_error"),
        ("from unittest.mock import Mock\nm = Mock()\nm.get.return_value = 3\nassert f(m) == 0", "infra_error"),
        ("from unittest.mock import Mock\nm = Mock()\nassert call(m) == 0\nm.assert_called_once_with(3)", "pass"),
        ("try:\n    f([0] * 300_000)\nexcept Exception:\n    pass\nassert True", "infra_error"),
        ("assert f(many())", "wrong"),
        ("assert g([many(), many()])", "output_limit"),
        ("assert len(huge()) == 3", "output_limit"),
        ("assert deep() == 3", "output_limit"),
        ("assert list(endless()) == [3]", "output_limit"),
    ],
)
def test_what_tests_bring_and_can_not_be_judged(judge_b: Judge, tests: str, outcome: str) -> None:
    """What the tests bring is the job's fault; what the solution gives is its own, also as an argument."""
    code = """
def f(x): return 0
class Base: pass
def bad(): raise ValueError
def call(g):
    g(3)
    return 0
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
