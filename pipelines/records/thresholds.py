"""Checks on evaluation results: `rl:sums:think:accuracy - base:sums:think:accuracy >= 0.15`.

A reference is STAGE:SUITE:MODE:METRIC, STAGE being the stage that was evaluated; METRIC may name a thinking
budget (`accuracy@16`) or a domain (`accuracy/algebra`), so put spaces around operators. References become names;
what is left is parsed by `ast` and may only be arithmetic.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from posttrain.configs.loading.problems import closest
from posttrain.errors import RecipeError

_REFERENCE = re.compile(
    r"(?P<stage>[A-Za-z0-9][\w-]*):(?P<suite>[\w.-]+):(?P<mode>[A-Za-z_]+):(?P<metric>[A-Za-z_][\w.]*(?:@\d+)?(?:/[A-Za-z][\w-]*)?)"
)
_ARITHMETIC: Mapping[type, Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_COMPARE: Mapping[type, Callable[[float, float], bool]] = {
    ast.GtE: operator.ge,
    ast.Gt: operator.gt,
    ast.LtE: operator.le,
    ast.Lt: operator.lt,
}
_FUNCTIONS: Mapping[str, Callable[..., float]] = {"min": min, "max": max, "abs": abs}

Cell = tuple[str, str, str, str]
"""(stage, suite, mode, metric) of a result."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """A parsed threshold."""

    text: str
    about: str
    left: ast.expr
    compare: type
    right: ast.expr
    cells: tuple[Cell, ...]


@dataclass(frozen=True, kw_only=True)
class ThresholdVerdict:
    """What a check came to. `passed` is None when its stage wasn't run, so that there is no result."""

    text: str
    about: str
    passed: bool | None
    detail: str

    @property
    def word(self) -> str:
        return {True: "PASS", False: "FAIL", None: "not run"}[self.passed]


def parse_check(text: str, about: str = "") -> Check:
    """Parse one threshold.

    Raises:
        RecipeError: it isn't one comparison of arithmetic over references.
    """
    cells: list[Cell] = []

    def name(match: re.Match[str]) -> str:
        cells.append((match["stage"], match["suite"], match["mode"], match["metric"]))
        return f"cell_{len(cells) - 1}"

    if "cell_" in _REFERENCE.sub("", text):
        raise _refusal(text, "`cell_` isn't a number or STAGE:SUITE:MODE:METRIC")
    code = _REFERENCE.sub(name, text)
    try:
        tree = ast.parse(code.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise _refusal(text, "it isn't arithmetic") from None
    if not isinstance(tree, ast.Compare) or len(tree.ops) != 1 or type(tree.ops[0]) not in _COMPARE:
        raise _refusal(text, "it must compare once, by >=, >, <= or <")
    check = Check(
        text=text,
        about=about,
        left=tree.left,
        compare=type(tree.ops[0]),
        right=tree.comparators[0],
        cells=tuple(cells),
    )
    for side in (check.left, check.right):
        _walk(side, text)
    return check


def judge(check: Check, results: Mapping[Cell, float]) -> ThresholdVerdict:
    """Evaluate `check` over `results`."""
    missing = [":".join(cell) for cell in check.cells if cell not in results]
    if missing:
        detail = f"no result for {', '.join(missing)}"
        # The whole suite ran and has no such metric: that is a failure, not a stage left out.
        ran = all(any(cell[:2] == known[:2] for known in results) for cell in check.cells)
        return ThresholdVerdict(text=check.text, about=check.about, passed=False if ran else None, detail=detail)
    names = {f"cell_{index}": results[cell] for index, cell in enumerate(check.cells)}
    try:
        left, right = _value(check.left, names), _value(check.right, names)
    except ZeroDivisionError:
        return ThresholdVerdict(text=check.text, about=check.about, passed=False, detail="division by zero")
    passed = bool(_COMPARE[check.compare](left, right))
    return ThresholdVerdict(text=check.text, about=check.about, passed=passed, detail=f"{left:.4g} against {right:.4g}")


METRICS = ("accuracy", "pass", "no_verdict", "think_format", "tokens", "truncated", "turns", "dialogues")
"""What `evaluate` measures; some with a count, a budget or a part: pass@4, accuracy@16, turns/think."""


def check_cells(check: Check, suites: Mapping[str, Mapping[str, Iterable[str]]]) -> None:
    """Refuse a check on what is never evaluated; `suites` is {stage: {suite: modes}}. Raises RecipeError."""
    for stage, suite, mode, metric in check.cells:
        if stage not in suites:
            near = closest(stage, suites) if suites else "add it to evaluate.after"
            raise _refusal(check.text, f"stage {stage!r} isn't evaluated; {near}")
        if suite not in suites[stage]:
            raise _refusal(check.text, f"{stage} has no suite {suite!r}; {closest(suite, suites[stage])}")
        modes = list(suites[stage][suite])
        if modes and mode not in modes:
            raise _refusal(check.text, f"suite {suite} has no mode {mode!r}; {closest(mode, modes)}")
        if (name := re.split("[@/]", metric)[0]) not in METRICS:
            raise _refusal(check.text, f"no evaluation gives the metric {metric!r}; {closest(name, METRICS)}")


def _walk(node: ast.expr, text: str) -> None:
    """Refuse every construct that `_value` doesn't know, before the run and not after it."""
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        _walk(node.left, text)
        _walk(node.right, text)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        _walk(node.operand, text)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS:
        if node.keywords or not node.args:
            raise _refusal(text, f"{node.func.id} takes values")
        for argument in node.args:
            _walk(argument, text)
    elif not (isinstance(node, ast.Name) and node.id.startswith("cell_")) and not (
        isinstance(node, ast.Constant) and type(node.value) in (int, float)
    ):
        raise _refusal(text, f"`{ast.unparse(node)}` isn't a number or STAGE:SUITE:MODE:METRIC")


def _value(node: ast.expr, names: Mapping[str, float]) -> float:
    match node:
        case ast.BinOp(left=left, op=op, right=right):
            return _ARITHMETIC[type(op)](_value(left, names), _value(right, names))
        case ast.UnaryOp(operand=operand):
            return -_value(operand, names)
        case ast.Call(func=ast.Name(id=name), args=arguments):
            values = [_value(argument, names) for argument in arguments]
            return abs(values[0]) if name == "abs" else _FUNCTIONS[name](values)
        case ast.Name(id=name):
            return names[name]
        case ast.Constant(value=value):
            return float(str(value))
    raise AssertionError(node)


def _refusal(text: str, what: str) -> RecipeError:
    example = "rl:sums:think:accuracy - base:sums:think:accuracy >= 0.15"
    return RecipeError(f"the threshold `{text}` can't be checked: {what}", fix=f"write it like `{example}`")
