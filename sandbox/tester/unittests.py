"""Tests written as `unittest.TestCase` classes: each of their methods is a test of the job.

What the text itself does with them isn't asked: `unittest.main(exit=False)` and `TextTestRunner().run(suite)` end well
whatever the tests found. Unless it asserts something of what they gave: then that is the test.
"""

from __future__ import annotations

import ast
import unittest
from collections.abc import Mapping, Sequence
from typing import Any

_RUNNERS = frozenset(("main", "TextTestRunner"))
_VAIN = frozenset(("print", "doctest", "testmod", "pytest"))
_RESULTS = frozenset(("wasSuccessful", "failures", "errors"))


def test_methods(statements: Sequence[ast.stmt]) -> list[tuple[str, str]]:
    """(class, method) of each test, in order.

    >>> test_methods(ast.parse("class T(unittest.TestCase):\\n    def test_f(self): pass").body)
    [('T', 'test_f')]
    """
    asserts = [n for s in statements for n in ast.walk(s) if isinstance(n, ast.Assert)]
    if any(not _names(node).isdisjoint(_RESULTS) for node in asserts):
        return []
    classes = [s for s in statements if isinstance(s, ast.ClassDef) and any(map(_is_test_case, s.bases))]
    return [
        (c.name, member.name)
        for c in classes
        for member in c.body
        if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef) and member.name.startswith("test")
    ]


def is_run(statement: ast.stmt) -> bool:
    """Whether this statement runs such classes."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom):
        return False
    return not _names(statement).isdisjoint(_RUNNERS)


def is_telling_call(node: ast.expr) -> bool:
    """Whether it is a call that doesn't end well whatever the solution does."""
    return isinstance(node, ast.Call) and _names(node.func).isdisjoint(_VAIN)


def passes(namespace: Mapping[str, Any], kind: str, method: str) -> bool:
    """Runs one test, with what its class sets up. Raises AssertionError with the last line of what went wrong."""
    result = unittest.TestResult()
    unittest.TestSuite([namespace[kind](method)]).run(result)
    for _, trace in (*result.failures, *result.errors):
        raise AssertionError(trace.strip().splitlines()[-1])
    return result.testsRun == 1 and result.wasSuccessful()


def _names(node: ast.AST) -> set[str]:
    return {n.attr if isinstance(n, ast.Attribute) else n.id for n in ast.walk(node)
            if isinstance(n, ast.Attribute | ast.Name)}  # fmt: skip


def _is_test_case(base: ast.expr) -> bool:
    name = base.attr if isinstance(base, ast.Attribute) else base.id if isinstance(base, ast.Name) else ""
    return name.endswith("TestCase")
