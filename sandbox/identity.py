"""`is` in tests: two stand-ins of one object may differ in what they are trusted with, and are one object still."""

from __future__ import annotations

import ast
import copy
from typing import Any

from posttrain.sandbox.objects import Handle

SAME = "__same_object__"
"""Name in the tests' namespace of the function that `is` is replaced with."""


def same_object(left: Any, right: Any) -> bool:
    """`left is right`, for objects of the solution too."""
    if type(left) is Handle and type(right) is Handle:
        return object.__getattribute__(left, "_number") == object.__getattribute__(right, "_number")
    return left is right


def comparing(statement: ast.stmt) -> ast.stmt:
    """The statement with `a is b` asked of `same_object`; unchanged where nothing is compared so."""
    if any(isinstance(n, ast.Compare) and _by_identity(n) for n in ast.walk(statement)):
        return ast.fix_missing_locations(_Identity().visit(copy.deepcopy(statement)))
    return statement


def _by_identity(node: ast.Compare) -> bool:
    is_one = len(node.ops) == 1 and isinstance(node.ops[0], ast.Is | ast.IsNot)
    return is_one and not any(isinstance(n, ast.Constant) for n in (node.left, *node.comparators))


class _Identity(ast.NodeTransformer):
    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        self.generic_visit(node)
        if not _by_identity(node):
            return node
        call = ast.Call(ast.Name(SAME, ast.Load()), [node.left, *node.comparators], [])
        return call if isinstance(node.ops[0], ast.Is) else ast.UnaryOp(ast.Not(), call)
