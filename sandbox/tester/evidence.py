"""What the tests' own text says of the solution: which of its results are used as objects of classes of its own.

A function that should give text or a list must give one: an object of the solution's own, whose `startswith` says yes
to everything, may not stand there. A test of a class, though, can't do without such objects. The solution isn't asked
which of the two it is; the text of the tests decides, by who produced a value:

    f(3).startswith("a")                    all that is asked of f's results, str has: no object
    Add(3).startswith("a")                  the same: a capital letter alone makes no class
    s = Stack(); s.push(1); s.pop()         no plain type has push: an object
    m = Bag(); m.add(1); m.add(1)           set has add, but a capital name whose result is changed may be a class
    Solution().f(3).startswith("a")         Solution's results are objects (f is no plain method), f's are not

A producer is the name last called (`f`), or the name that was read (`=f`). What is known of a variable, a parameter, a
loop's target or an attribute of `self` is the union of what it may come from. Where nothing is known, it is no object.

An object that a function gave doesn't say itself what plain data it equals: `find("b") == None` is decided here, though
`find("a").group(0)` makes an object of what `find` gives.

What remains: a class under test may lie in its own methods, since its word is what is tested; results of two methods
of one name aren't told apart; a lower-case factory whose objects are only used as a plain type could be isn't trusted.
"""

from __future__ import annotations

import ast
import builtins
import collections
import datetime
import decimal
import fractions
import functools
from collections.abc import Iterable, Iterator

from posttrain.sandbox import arrays
from posttrain.sandbox.tester.feedback import feeds_back

_PLAIN = (
    str, bytes, bytearray, bool, int, float, complex, list, tuple, dict, set, frozenset, range, collections.Counter,
    collections.OrderedDict, collections.deque, datetime.datetime, datetime.date, datetime.time, datetime.timedelta,
    decimal.Decimal, fractions.Fraction,
)  # fmt: skip
_OFFERED = tuple(frozenset(name for name in dir(kind) if not name.startswith("_")) for kind in _PLAIN)
_INTERPRETERS = frozenset(("builtins.input", "builtins.print", "builtins.open", "sys.stdin"))
_PASSES = 8
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
Producers = frozenset[str]
_NONE: Producers = frozenset()


class Evidence:
    """Reads the tests once, before the solution says anything."""

    def __init__(self, statements: list[ast.stmt] = [], objects: Iterable[str] = ()) -> None:  # noqa: B006
        self._nodes = [node for statement in statements for node in ast.walk(statement)]
        self.has_text = bool(statements)
        """Whether the tests are text, and no list of arguments and results."""
        self._classes = frozenset(objects)
        self._objects = set(objects)
        attributes = {node.attr for node in self._nodes if isinstance(node, ast.Attribute)}
        if attributes:  # without any, nothing is used as an object: most tests need no more than this
            offered = (*_OFFERED, *arrays.attributes())
            self._objects.update(p for p, used in self._uses().items() if not any(used <= o for o in offered))
        words = attributes | {node.id for node in self._nodes if isinstance(node, ast.Name)}
        texts = {n.value for n in self._nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)}
        self.captures = not words.isdisjoint(("redirect_stdout", "stdout")) or "sys.stdout" in texts
        """Whether the tests look at what the solution prints."""
        self.reaches_in = ", ".join(sorted(self._replaced(words, texts)))
        """What of the interpreter the tests replace for the solution: it has one of its own, out of their reach."""

    @functools.cached_property
    def plain_names(self) -> frozenset[str]:
        """Attributes of the types that cross as plain data."""
        return frozenset().union(*_OFFERED, *arrays.attributes())

    @functools.cached_property
    def feeds_back(self) -> bool:
        """Whether something of the solution's goes into an argument: it may then decide how large that is."""
        return self.captures or feeds_back(self._nodes, self._bound)

    @functools.cached_property
    def may_suppress(self) -> bool:
        """Whether an `__exit__` of the solution may end a `with` block early: not where that could skip a check."""
        return not any(self._checks(node) for node in self._nodes)

    def _replaced(self, words: set[str], texts: set[str]) -> set[str]:
        found = texts & _INTERPRETERS if "patch" in words else set()
        return found | ({"sys.stdin"} if "stdin" in words and any(map(_replaces_input, self._nodes)) else set())

    @functools.cached_property
    def _own(self) -> dict[str, ast.FunctionDef | ast.AsyncFunctionDef]:
        return {n.name: n for n in self._nodes if isinstance(n, _FUNCTIONS)}

    @functools.cached_property
    def _bound(self) -> frozenset[str]:
        return frozenset(_bindings(self._nodes))

    @functools.cached_property
    def _known(self) -> dict[str, Producers]:
        """What each variable may come from."""
        self.__dict__["_known"] = known = dict[str, Producers]()  # `_learn` reads and fills it
        for _ in range(_PASSES):
            before = dict(known)
            for node in self._nodes:
                self._learn(node)
            if before == known:
                break
        return known

    def is_object(self, producer: str) -> bool:
        """Whether what comes from there is used as an object of a class of the solution's own."""
        combined = self.is_named_like_a_class(producer) and producer in self._combined
        return producer in self._objects or combined or self.is_class(producer)

    @staticmethod
    def is_named_like_a_class(producer: str) -> bool:
        """Whether it starts with a capital letter: a hint, and no more."""
        name = producer.lstrip("=_")
        return name[:1].isupper() and not (producer.startswith("=") and name.isupper() and len(name) > 1)

    def is_class(self, producer: str) -> bool:
        """Whether it is a class: the job says so, or it is named like one and the tests use it as one. What such an
        object equals is what is tested. But `f(x).group(0)` doesn't make a result of `f` equal to whatever it says, nor
        does a capital letter make a result of `Add`.
        """
        used = producer in self._classes or producer in self._objects
        named = self.is_named_like_a_class(producer)
        return producer in self._classes or (named and (used or producer.lstrip("=") in self._used_as_classes))

    @functools.cached_property
    def _combined(self) -> Producers:
        """Names whose results are changed by a method, `m.add(1)`, or meet each other in one, `V(1).add(V(2))`.

        They may answer for their methods, and are still not asked what plain data they equal: a list can be sorted too.
        """
        found: set[str] = set()
        for node in self._nodes:
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                found |= self._of(node.func.value) & self._all(node.args)
            elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
                function = node.value.func
                found |= self._of(function.value) if isinstance(function, ast.Attribute) else set()
        return frozenset(found)

    @functools.cached_property
    def _used_as_classes(self) -> frozenset[str]:
        """Names of which the tests do what they do with classes, and never with a function that gives plain data."""
        found: set[str] = set(self._objects)
        for node in self._nodes:
            if isinstance(node, ast.Compare):  # type(a) is A
                sides = [node.left, *node.comparators]
                found |= self._all(sides) if any(map(_asks_class, sides)) else set()
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                asked = node.func.id in ("isinstance", "issubclass") and len(node.args) == 2
                found |= self._of(node.args[1]) if asked else set()
            elif isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
                found |= self._of(node.value)
            elif isinstance(node, ast.withitem):
                found |= self._of(node.context_expr)
            elif isinstance(node, ast.ExceptHandler):
                found |= self._of(node.type)
            elif isinstance(node, ast.Attribute) and not node.attr.startswith("__"):  # Color.RED, Point.of(1)
                found |= {name for name in self._of(node.value) if name.startswith("=")}
        return frozenset(name.lstrip("=") for name in found)

    # ------------------------------------------------------------ who produced what

    def _of(self, node: ast.AST | None) -> Producers:
        if isinstance(node, ast.Name):
            own = node.id in self._bound or hasattr(builtins, node.id)
            return self._known.get(node.id, _NONE) if own else frozenset({f"={node.id}"})
        if isinstance(node, ast.Attribute):
            found = self._known.get(f".{node.attr}", _NONE)
            return found | {f"={node.attr}"} if self._of(node.value) else found
        if isinstance(node, ast.Call):
            callee = self._of(node.func)
            if callee:
                return frozenset(name.lstrip("=") for name in callee)
            return self._all([*node.args, *(k.value for k in node.keywords)])
        if isinstance(node, ast.Lambda | ast.Constant) or node is None:
            return _NONE
        if isinstance(node, ast.Subscript):
            return self._of(node.value)
        if isinstance(node, ast.DictComp):
            return self._of(node.key) | self._of(node.value)
        if isinstance(node, ast.ListComp | ast.SetComp | ast.GeneratorExp):
            return self._of(node.elt)
        return self._all(ast.iter_child_nodes(node))

    def _all(self, nodes: Iterable[ast.AST]) -> Producers:
        return frozenset().union(*map(self._of, nodes))

    def _learn(self, node: ast.AST) -> None:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                self._bind(target, self._of(node.value))
        elif isinstance(node, ast.AnnAssign | ast.AugAssign | ast.NamedExpr):
            self._bind(node.target, self._of(node.value))
        elif isinstance(node, ast.For | ast.AsyncFor | ast.comprehension):
            self._bind(node.target, self._of(node.iter))
        elif isinstance(node, ast.withitem):
            self._bind(node.optional_vars, self._of(node.context_expr))
        elif isinstance(node, ast.ExceptHandler) and node.name and node.type is not None:
            self._add(node.name, frozenset(name.lstrip("=") for name in self._of(node.type)))
        elif isinstance(node, ast.ImportFrom) and node.module == "solution":
            for alias in node.names:
                self._add(alias.asname or alias.name, frozenset({f"={alias.name}"}))
        elif isinstance(node, ast.Call):
            self._hand_over(node)

    def _hand_over(self, call: ast.Call) -> None:
        own = self._own.get(call.func.id) if isinstance(call.func, ast.Name) else None
        if own is not None:
            names = [a.arg for a in (*own.args.posonlyargs, *own.args.args)]
            for name, value in zip(names, call.args, strict=False):
                self._add(name, self._of(value))
            for keyword in call.keywords:
                self._add(keyword.arg or "", self._of(keyword.value))
        values = [*call.args, *(k.value for k in call.keywords)]
        for function in (v for v in values if isinstance(v, ast.Lambda)):  # map(lambda w: w.isupper(), f(3))
            for parameter in function.args.args:
                self._add(parameter.arg, self._all(values))

    def _bind(self, target: ast.AST | None, found: Producers) -> None:
        if isinstance(target, ast.Name):
            self._add(target.id, found)
        elif isinstance(target, ast.Attribute):  # self.stack = Stack()
            self._add(f".{target.attr}", found)
        elif isinstance(target, ast.Tuple | ast.List):
            for part in target.elts:
                self._bind(part, found)
        elif isinstance(target, ast.Starred | ast.Subscript):
            self._bind(target.value, found)

    def _add(self, name: str, found: Producers) -> None:
        self._known[name] = self._known.get(name, _NONE) | found

    def _uses(self) -> dict[str, set[str]]:
        used: dict[str, set[str]] = collections.defaultdict(set)
        for node in self._nodes:
            if isinstance(node, ast.Attribute) and not node.attr.startswith("__"):
                for producer in self._of(node.value):
                    used[producer].add(node.attr)
        return used

    # ------------------------------------------------------------ what else the text decides

    def _checks(self, node: ast.AST) -> bool:
        if not isinstance(node, ast.With | ast.AsyncWith):
            return False
        inner = [n for statement in node.body for n in ast.walk(statement)]
        return any(isinstance(n, ast.Assert) or (isinstance(n, ast.Call) and self._is_check(n.func)) for n in inner)

    def _is_check(self, function: ast.expr) -> bool:
        if isinstance(function, ast.Attribute):
            return function.attr.startswith(("assert", "fail"))
        return isinstance(function, ast.Name) and function.id in self._own


def _asks_class(node: ast.expr) -> bool:
    if isinstance(node, ast.Attribute):
        return node.attr == "__class__"
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "type"


def _replaces_input(node: ast.AST) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else []
    return any(isinstance(t, ast.Attribute) and t.attr == "stdin" for t in targets)


def _bindings(nodes: list[ast.AST]) -> Iterator[str]:
    """Names that the tests themselves give a meaning to."""
    for node in nodes:
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((a.asname or a.name).split(".")[0] for a in node.names if a.name != "solution")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.ExceptHandler) and node.name:
            yield node.name
