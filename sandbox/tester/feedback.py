"""Whether something of the solution's may go into an argument of the tests: then it decides how large that is.

An argument that is too large to be handed over is the tests' fault, an infra_error that nobody is scored for; but not
where the solution itself can make it so, and with it escape its score. Again the tests' text decides. This is coarse on
purpose: a name that may once hold something of the solution's is its own for good.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterable, Iterator, Sequence

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_MODULE = "solution"
_READERS = frozenset(("eval", "exec"))
"""Built-ins that run a text: nothing is known then."""
_LOOK_UP = frozenset(("globals", "locals", "vars", "__import__"))
"""Built-ins that give what is named in a text."""


def feeds_back(nodes: Sequence[ast.AST], bound: Iterable[str]) -> bool:
    """Whether a call of the solution's gets an argument that may be of its own making. `nodes` are all nodes of the
    tests, `bound` the names that they give a meaning to themselves.

    >>> text = "xs = []\\nxs.extend(f(1))\\nassert g(xs) == 1"
    >>> feeds_back(list(ast.walk(ast.parse(text))), ["xs"])
    True
    """
    return _Tests(nodes, bound).feeds_back()


class _Tests:
    def __init__(self, nodes: Sequence[ast.AST], bound: Iterable[str]) -> None:
        self._nodes = nodes
        self._bound = frozenset(bound)
        self._own = {node.name: node for node in nodes if isinstance(node, _FUNCTIONS)}
        imports = [node for node in nodes if isinstance(node, ast.Import)]
        self._modules = {(a.asname or a.name).split(".")[0] for node in imports for a in node.names}
        self._theirs: set[str] = set()
        """Names and attributes that may hold something of the solution's."""
        size = -1
        while size < len(self._theirs):
            size = len(self._theirs)
            for node in nodes:
                self._theirs.update(self._given(node))

    def feeds_back(self) -> bool:
        if any(isinstance(node, ast.Name) and node.id in _READERS for node in self._nodes):
            return True
        calls = [node for node in self._nodes if isinstance(node, ast.Call)]
        return any(self._calls_solution(call) and self._any_theirs(_arguments(call)) for call in calls)

    def _calls_solution(self, call: ast.Call) -> bool:
        own = isinstance(call.func, ast.Name) and call.func.id in self._own
        return not own and self._is_theirs(call.func)

    def _any_theirs(self, nodes: Iterable[ast.AST]) -> bool:
        return any(map(self._is_theirs, nodes))

    def _is_theirs(self, node: ast.AST) -> bool:
        nodes = list(ast.walk(node))
        free = {n.id for n in nodes if isinstance(n, ast.Name)} - self._bound
        if any(name in _LOOK_UP or not hasattr(builtins, name) for name in free):
            return True
        if any(isinstance(n, ast.Constant) and n.value == _MODULE for n in nodes):
            return True
        return not self._theirs.isdisjoint(_names(node))

    def _given(self, node: ast.AST) -> Iterator[str]:
        """Names to which this node gives something of the solution's."""
        if isinstance(node, ast.Lambda):  # called with whatever it is called with
            yield from (a.arg for a in ast.walk(node.args) if isinstance(a, ast.arg))
        elif isinstance(node, ast.ImportFrom) and node.module == _MODULE:
            yield from (a.asname or a.name for a in node.names)
        elif isinstance(node, ast.ExceptHandler):
            yield from [node.name] if node.name else []
        elif isinstance(node, _FUNCTIONS):
            if self._any_theirs(node.body):
                yield node.name
        elif isinstance(node, ast.Call):
            yield from self._handed(node)
        else:
            value, targets = _assigned(node)
            if value is not None and self._is_theirs(value):
                for target in targets:
                    yield from _names(target)

    def _handed(self, call: ast.Call) -> Iterator[str]:
        if not self._any_theirs(_arguments(call)):
            return
        if isinstance(
            call.func, ast.Attribute
        ):  # xs.append(f(1)); but self.assertEqual(f(1), 2), math.isclose(f(1), 2)
            names = _names(call.func.value)
            if names.isdisjoint(self._modules) and not call.func.attr.startswith("assert"):
                yield from names
        elif isinstance(call.func, ast.Name) and call.func.id in self._own:
            yield from (a.arg for a in ast.walk(self._own[call.func.id].args) if isinstance(a, ast.arg))


def _assigned(node: ast.AST) -> tuple[ast.AST | None, list[ast.AST]]:
    """What this node assigns, and to what."""
    if isinstance(node, ast.Assign):
        return node.value, [*node.targets]
    if isinstance(node, ast.AnnAssign | ast.AugAssign | ast.NamedExpr):
        return node.value, [node.target]
    if isinstance(node, ast.For | ast.AsyncFor | ast.comprehension):
        return node.iter, [node.target]
    if isinstance(node, ast.withitem):
        return node.context_expr, [node.optional_vars] if node.optional_vars is not None else []
    return None, []


def _arguments(call: ast.Call) -> list[ast.AST]:
    return [*call.args, *(k.value for k in call.keywords)]


def _names(node: ast.AST) -> set[str]:
    return {n.id if isinstance(n, ast.Name) else n.attr for n in ast.walk(node)
            if isinstance(n, ast.Name | ast.Attribute)}  # fmt: skip
