"""`is` and `type` in tests, of stand-ins.

Two of one object may differ in what they are trusted with, and are one object still; and the type of an object of the
solution's own is its class there.
"""

from __future__ import annotations

import ast
import copy
from typing import Any

from posttrain.sandbox.tester.objects import Handle

SAME, TYPE = "__same_object__", "__type_of__"
"""Names in the tests' namespace of the functions that `is` and `type` are replaced with."""


def same_object(left: Any, right: Any) -> bool:
    """`left is right`, for objects of the solution too."""
    if type(left) is Handle and type(right) is Handle:
        return object.__getattribute__(left, "_number") == object.__getattribute__(right, "_number")
    return left is right


def type_of(value: Any) -> Any:
    """`type(value)`, and `value.__class__`, for objects of the solution too."""
    if type(value) is Handle and object.__getattribute__(value, "_is_object"):
        return value._ask("attribute", "__class__", producer="=class")
    return type(value)


def comparing(statement: ast.stmt) -> ast.stmt:
    """The statement with `is` asked of `same_object` and `type` of `type_of`; unchanged where it has neither."""
    if any(map(_concerned, ast.walk(statement))):
        return ast.fix_missing_locations(_Identity().visit(copy.deepcopy(statement)))
    return statement


def _concerned(node: ast.AST) -> bool:
    if isinstance(node, ast.Compare):
        return _by_identity(node)
    return _asks_type(node) or (isinstance(node, ast.Attribute) and node.attr == "__class__")


def _asks_type(node: ast.AST) -> bool:
    named = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "type"
    return named and isinstance(node, ast.Call) and len(node.args) == 1 and not node.keywords


def _by_identity(node: ast.Compare) -> bool:
    is_one = len(node.ops) == 1 and isinstance(node.ops[0], ast.Is | ast.IsNot)
    return is_one and not any(isinstance(n, ast.Constant) for n in (node.left, *node.comparators))


class _Identity(ast.NodeTransformer):
    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        return ast.Call(ast.Name(TYPE, ast.Load()), node.args, []) if _asks_type(node) else node

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        self.generic_visit(node)
        read = node.attr == "__class__" and isinstance(node.ctx, ast.Load)
        return ast.Call(ast.Name(TYPE, ast.Load()), [node.value], []) if read else node

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        self.generic_visit(node)
        if not _by_identity(node):
            return node
        call = ast.Call(ast.Name(SAME, ast.Load()), [node.left, *node.comparators], [])
        return call if isinstance(node.ops[0], ast.Is) else ast.UnaryOp(ast.Not(), call)
