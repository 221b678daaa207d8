"""Reads Python literals, arithmetic and sympy expressions out of model text without running it.

Stand-ins for `eval` and `sympy.parse_expr` in libraries that call them on an answer: the text is parsed, checked node
by node against what such an answer may hold, and only then evaluated. Sizes are bounded before anything is computed.
Runs in confined rooms (see `sandbox.confined.guard`), as does what calls it.
"""

from __future__ import annotations

import ast
import functools
import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from posttrain.sandbox.confined.guard import own_code

MAX_LENGTH = 20_000
"""Characters of a text that is read; an expression of sympy's may have a tenth."""
MAX_DEPTH = 60
MAX_BITS = 20_000
"""Of a whole number, and of anything on the way to it."""
MAX_EXPONENT = 1000
"""Of what isn't a number, such as `x**1000`."""
MAX_FACTORIAL = 500

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.BitAnd: operator.and_, ast.BitOr: operator.or_,
    ast.BitXor: operator.xor, ast.Pow: operator.pow, ast.LShift: operator.lshift, ast.RShift: operator.rshift,
}  # fmt: skip
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.UAdd: operator.pos, ast.USub: operator.neg, ast.Invert: operator.invert, ast.Not: operator.not_,
}  # fmt: skip
_FUNCTIONS = (
    "Abs", "E", "I", "Max", "Min", "acos", "acosh", "asin", "asinh", "atan", "atanh", "binomial", "cbrt", "cos",
    "cosh", "cot", "coth", "csc", "erf", "exp", "factorial", "ln", "log", "oo", "pi", "root", "sec", "sign", "sin",
    "sinh", "sqrt", "tan", "tanh",
)  # fmt: skip
_MADE_BY_SYMPY = ("Float", "Function", "Integer", "Rational", "Symbol")
"""What the tokens of an expression become."""


class Unsafe(ValueError):
    """Text that is more than a literal or an expression, or too large."""


def literal(text: str, *_: Any) -> Any:
    """The value of a Python literal or of arithmetic on numbers: what `eval` returns for such text. Raises Unsafe."""
    return _value(_parsed(text, MAX_LENGTH).body, MAX_DEPTH)


def parse_expr(text: str, local_dict: Mapping[str, Any] | None = None, *_: Any, **options: Any) -> Any:
    """What `sympy.parse_expr` returns for numbers, symbols, operators and elementary functions.

    Any other name is a symbol, as sympy reads names that it doesn't know. Raises Unsafe, or what sympy raises for text
    that is no expression.
    """
    from sympy.parsing.sympy_parser import standard_transformations, stringify_expr

    if len(text) > MAX_LENGTH // 10:
        raise Unsafe(f"an expression of more than {MAX_LENGTH // 10} characters")
    names, local = _sympy_names(), dict(local_dict or {})
    transformations = options.get("transformations", standard_transformations)
    tree = _parsed(stringify_expr(text, local, names, transformations), 10 * MAX_LENGTH)
    _bits(tree.body, {*names, *local}, MAX_DEPTH)
    with own_code():
        return eval(compile(tree, "<checked expression>", "eval"), {"__builtins__": {}, **names}, local)


def install() -> None:
    """Have sympy itself, in this process, read text with `parse_expr`: `sympify("2 + 3")` too."""
    import sympy
    from sympy.parsing import sympy_parser

    _sympy_names()
    sympy.parse_expr = sympy_parser.parse_expr = parse_expr


@functools.cache
def _sympy_names() -> dict[str, Any]:
    import sympy

    return {name: getattr(sympy, name) for name in (*_FUNCTIONS, *_MADE_BY_SYMPY)}


def _parsed(text: str, longest: int) -> ast.Expression:
    if not isinstance(text, str) or len(text) > longest:
        raise Unsafe(f"no text, or one of more than {longest} characters")
    try:
        with own_code():
            tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise Unsafe(f"no expression: {error}") from None
    assert isinstance(tree, ast.Expression)
    return tree


# ---------------------------------------------------------------- literals and arithmetic


def _value(node: ast.expr, depth: int) -> Any:
    if depth <= 0:
        raise Unsafe(f"more than {MAX_DEPTH} levels")
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        items = [_value(item, depth - 1) for item in node.elts]
        return items if isinstance(node, ast.List) else tuple(items) if isinstance(node, ast.Tuple) else set(items)
    if isinstance(node, ast.Dict) and all(node.keys):
        keys = [_value(key, depth - 1) for key in node.keys if key is not None]
        return dict(zip(keys, (_value(value, depth - 1) for value in node.values), strict=True))
    if isinstance(node, ast.UnaryOp):
        return _UNARY[type(node.op)](_number(_value(node.operand, depth - 1)))
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        return _compute(type(node.op), _value(node.left, depth - 1), _value(node.right, depth - 1))
    raise Unsafe(f"{type(node).__name__} isn't read")


def _number(value: Any) -> int | float:
    if not isinstance(value, int | float):
        raise Unsafe(f"arithmetic on a {type(value).__name__}")
    return value


def _compute(kind: type[ast.operator], left: Any, right: Any) -> int | float:
    left, right = _number(left), _number(right)
    bits = _size(left) * max(1, abs(right)) if kind is ast.Pow else _size(left) + _size(right)
    bits = _size(left) + right if kind is ast.LShift else bits
    if bits > MAX_BITS:
        raise Unsafe("too large a number")
    found: int | float = _BINARY[kind](left, right)
    return found


def _size(value: int | float) -> int:
    return value.bit_length() if isinstance(value, int) else 64


# ---------------------------------------------------------------- expressions of sympy's


def _bits(node: ast.expr, names: set[str], depth: int) -> int | None:
    """How many bits the value of a checked expression has at most; None where it holds a symbol. Raises Unsafe."""
    if depth <= 0:
        raise Unsafe(f"more than {MAX_DEPTH} levels")
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return _within(_size(node.value))
    if isinstance(node, ast.Name) and node.id in names:
        return 64 if node.id in ("pi", "E", "I") else None
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.UAdd | ast.USub):
        return _bits(node.operand, names, depth - 1)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub | ast.Mult | ast.Div | ast.Mod | ast.Pow):
        return _bits_of_operation(node, names, depth)
    if isinstance(node, ast.Tuple):
        for item in node.elts:
            _bits(item, names, depth - 1)
        return None
    if isinstance(node, ast.Call) and not node.keywords:
        return _bits_of_call(node, names, depth)
    raise Unsafe(f"{type(node).__name__} isn't read in an expression")


def _bits_of_operation(node: ast.BinOp, names: set[str], depth: int) -> int | None:
    chained = isinstance(node.op, ast.Add | ast.Sub | ast.Mult)  # a sum of many terms is deep on its left alone
    left = _bits(node.left, names, depth if chained else depth - 1)
    right = _bits(node.right, names, depth - 1)
    if isinstance(node.op, ast.Pow):
        value = _numeric(node.right)
        if value is not None and abs(value) > MAX_EXPONENT:
            raise Unsafe(f"an exponent of more than {MAX_EXPONENT}")
        if value is None and left is not None and right is not None and right > math.log2(MAX_EXPONENT) + 1:
            raise Unsafe("an exponent that may be large")
        return None if left is None or value is None else _within(math.ceil(left * max(1.0, abs(value))))
    return None if left is None or right is None else _within(left + right + 1)


def _bits_of_call(node: ast.Call, names: set[str], depth: int) -> int | None:
    if isinstance(node.func, ast.Call):  # Function('f')(x): a function that sympy doesn't know
        made = node.func
        if not (isinstance(made.func, ast.Name) and made.func.id == "Function" and _is_text(made.args)):
            raise Unsafe("a call of what a call returned")
    elif not isinstance(node.func, ast.Name) or node.func.id not in names:
        raise Unsafe("only functions of a fixed list are called")
    elif node.func.id in _MADE_BY_SYMPY and _is_text(node.args):
        text = node.args[0]
        assert isinstance(text, ast.Constant)
        if node.func.id in ("Symbol", "Function"):
            return None
        exponent = re.search(r"[eE][+-]?0*(\d+)$", str(text.value))
        return _within(4 * len(str(text.value)) + (4 * int(exponent[1][:9]) if exponent else 0))
    sizes = [_bits(argument, names, depth - 1) for argument in node.args]
    name = node.func.id if isinstance(node.func, ast.Name) else ""
    if name in ("Integer", "Float", "Rational"):
        return None if None in sizes else _within(sum(size or 0 for size in sizes))
    if name in ("factorial", "binomial"):
        if any(size is not None and size > math.log2(MAX_FACTORIAL) + 1 for size in sizes):
            raise Unsafe(f"{name} of more than {MAX_FACTORIAL}")
        return _within(10 * MAX_FACTORIAL)
    return None


def _within(bits: int) -> int:
    if bits > MAX_BITS:
        raise Unsafe("too large a number")
    return bits


def _is_text(arguments: list[ast.expr]) -> bool:
    return len(arguments) == 1 and isinstance(arguments[0], ast.Constant) and isinstance(arguments[0].value, str)


def _numeric(node: ast.expr) -> float | None:
    """About what an exponent is, where it is made of numbers alone: as small floats, and without a power in it."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return float(node.value) if abs(node.value) < 1e9 else math.inf
    if isinstance(node, ast.Name):
        return {"pi": math.pi, "E": math.e}.get(node.id)
    if isinstance(node, ast.UnaryOp):
        inner = _numeric(node.operand)
        return inner if inner is None or isinstance(node.op, ast.UAdd) else -inner
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("Integer", "Float"):
        return _number_of(node.args)
    if isinstance(node, ast.BinOp) and type(node.op) in (ast.Add, ast.Sub, ast.Mult, ast.Div):
        left, right = _numeric(node.left), _numeric(node.right)
        if left is None or right is None or (isinstance(node.op, ast.Div) and not right):
            return None
        return float(_BINARY[type(node.op)](left, right))
    return None


def _number_of(arguments: list[ast.expr]) -> float | None:
    if len(arguments) != 1 or not isinstance(arguments[0], ast.Constant) or len(str(arguments[0].value)) > 40:
        return math.inf
    try:
        return float(arguments[0].value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
