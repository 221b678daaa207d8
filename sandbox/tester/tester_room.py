"""The tester room T: the tests. It alone owns the descriptor on which a verdict can be given.

The names of the solution that tests use are bound to handles; nothing else of the solution is in reach, so it
can't offer its own `len` or `math`. Exit codes and standard output are no evidence here.
"""

from __future__ import annotations

import ast
import asyncio
import builtins
import contextlib
import functools
import importlib
import os
import struct
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

from posttrain.sandbox import codec
from posttrain.sandbox.jobs import MAX_RESULTS, MESSAGE_CHARS, OUTCOMES, Outcome, Result
from posttrain.sandbox.rooms.solution_room import READY
from posttrain.sandbox.tester import unittests
from posttrain.sandbox.tester.evidence import Evidence
from posttrain.sandbox.tester.handles import ForgedFrame, Solution, SolutionGone, Unjudgeable, mirror
from posttrain.sandbox.tester.identity import SAME, TYPE, comparing, same_object, type_of
from posttrain.sandbox.tester.matching import matches

MAX_TESTS = 64 << 20
"""Bytes of the tests' frame."""
VERDICT = struct.Struct("!BII?H")
"""Index into OUTCOMES, passed, total, whether frames were forged, and how many bytes of results follow: indices into
RESULTS, one a test. After them a message of at most MAX_MESSAGE bytes."""
RESULTS: tuple[Result, ...] = ("pass", "failed", "not_run")
MAX_MESSAGE = 4 * MESSAGE_CHARS
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


class UnusableTests(Exception):
    """The tests can't be run whatever the solution is: the job's fault, not the code's."""


class Tally:
    """Counts tests and remembers the first failure."""

    def __init__(self) -> None:
        self.passed = self.total = 0
        self.outcome: Outcome = "pass"
        self.message = ""
        self.forged = False
        self.results: list[Result] = []

    def fail(self, outcome: Outcome, message: str) -> None:
        if self.outcome == "pass":
            self.outcome, self.message = outcome, message

    def run(self, test: Callable[[], bool], counts: bool, label: Callable[[], str]) -> None:
        """Runs one test; only SolutionGone leaves this method."""
        before = self.passed
        try:
            self._run(test, counts, label)
        finally:
            if counts:
                self.results.append("pass" if self.passed > before else "failed")

    def _run(self, test: Callable[[], bool], counts: bool, label: Callable[[], str]) -> None:
        try:
            if not test():
                self.fail("wrong", f"failed: {label()}")
                return
            self.passed += counts
        except SolutionGone:
            raise
        except MemoryError:
            self.fail("memory", f"MemoryError: {label()}")
        except codec.TooLarge as error:
            self.fail("output_limit", f"{error}: {label()}")
        except BaseException as error:  # noqa: BLE001  a test may raise anything, and so may the solution through it
            self.fail("wrong", f"{_text(error)}: {label()}")

    def frame(self) -> bytes:
        """The verdict as it crosses to the supervisor."""
        told = self.results + ["not_run"] * (self.total - len(self.results)) if self.total <= MAX_RESULTS else []
        told = told if len(told) == self.total else []
        body = self.message[:MESSAGE_CHARS].encode("utf-8", "replace")[:MAX_MESSAGE]
        head = VERDICT.pack(OUTCOMES.index(self.outcome), self.passed, self.total, self.forged, len(told))
        return head + bytes(map(RESULTS.index, told)) + body


def _text(error: BaseException) -> str:
    try:
        text = str(error)
    except SolutionGone:
        raise
    except BaseException:  # noqa: BLE001  the text of the solution's own exception is what it says
        text = ""
    return f"{type(error).__name__}: {text}"[:200] if text else type(error).__name__


def run(channel: int, rpc: int, confine: Callable[[], None]) -> None:
    """Reads the tests, locks itself in, runs them, gives one verdict."""
    spec = codec.read_frame(channel, MAX_TESTS)
    confine()
    os.write(channel, READY)
    tally = Tally()
    try:
        tests = Tests(spec, Solution(rpc))
        tally.total = tests.total
        _judge(tests, tally)
    except UnusableTests as error:
        tally.outcome, tally.message = "infra_error", str(error)
    frame = tally.frame()
    os.write(channel, struct.pack("!I", len(frame)) + frame)


def _judge(tests: Tests, tally: Tally) -> None:
    try:
        state, kind, text = tests.solution.loaded()
        if state != "loaded":
            outcomes: dict[str, Outcome] = {"compile": "compile_error", "memory": "memory"}
            tally.fail(outcomes.get(state, "crash"), f"{kind}: {text}"[:MESSAGE_CHARS])
            return
        for test, counts, label in tests.cases():
            tally.run(test, counts, label)
            tests.solution.check()
            if tests.stop_on_first and tally.outcome != "pass":
                break
        tests.solution.hang_up()
    except Unjudgeable as error:
        tally.outcome, tally.message = "infra_error", str(error)
    except SolutionGone as error:
        tally.forged = isinstance(error, ForgedFrame)
        tally.fail("crash", f"the solution is gone: {error}")
    if tally.outcome == "pass" and tally.passed != tally.total:
        tally.fail("wrong", "not every test was reached")


class Tests:
    """A job's tests, made ready before the solution says anything."""

    def __init__(self, spec: dict[str, Any], solution: Solution) -> None:
        self.solution = solution
        self.stop_on_first: bool = spec["stop"]
        self._entry: list[str] = spec["entry"]
        self._changeable: dict[str, Any] = {}
        self._tolerance: float | None = spec.get("tolerance")
        self._calls: list[Any] = spec["tests"] if spec["kind"] == "calls" else []
        self._methods: list[Any] = spec["tests"] if spec["kind"] == "methods" else []
        self.statements = [] if self._calls or self._methods else _parse(spec["tests"])
        self._counted = _counted(self.statements)
        solution.evidence = Evidence(self.statements, objects=[names[0] for names, _, _ in self._methods])
        self._functions = _test_functions(self.statements)
        self._cases = unittests.test_methods(self.statements)
        if self._cases:
            self.statements = [s for s in self.statements if not unittests.is_run(s)]
        self.total = sum(map(len, (self._calls, self._methods, self._counted, self._functions, self._cases)))
        if solution.evidence.reaches_in:
            raise UnusableTests(f"the tests replace {solution.evidence.reaches_in}, which isn't the solution's here")
        if not self.total:
            raise UnusableTests("the tests hold no assert and no call")
        if self._calls and not self._entry:
            raise UnusableTests("tests of arguments and results need `entry`")

    def cases(self) -> Iterator[tuple[Callable[[], bool], bool, Callable[[], str]]]:
        """(test, whether it counts, label), in order. Statements that only prepare must not fail either."""
        if self._calls:
            function = _lookup(self.solution, self._entry[0])
            for args, expected in self._calls:
                label = functools.partial(_short, self._entry[0], args)
                yield self._call_test(function, args, expected), True, label
            return
        if self._methods:
            for names, arguments, expected in self._methods:
                label = functools.partial(_short, names[0], arguments)
                yield self._object_test(names, arguments, expected), True, label
            return
        namespace = self._namespace()
        for statement in self.statements:
            label = functools.partial(_source, statement)  # unparsing takes longer than most tests
            yield self._statement_test(statement, namespace), id(statement) in self._counted, label
        for name in self._functions:
            yield (lambda name=name: namespace[name]() is not False), True, functools.partial(str, name)  # type: ignore[misc]
        for kind, method in self._cases:
            yield self._method_test(namespace, kind, method), True, f"{kind}.{method}".__str__

    def _call_test(self, function: Callable[[], Any], args: Any, expected: Any) -> Callable[[], bool]:
        return lambda: matches(_awaited(function()(*_listed(args))), expected, self._tolerance)

    def _object_test(self, names: list[str], arguments: list[Any], expected: list[Any]) -> Callable[[], bool]:
        def test() -> bool:
            target = _global(self.solution, names[0])(*_listed(arguments[0]))
            steps = zip(names[1:], arguments[1:], expected[1:], strict=True)
            return all(
                matches(_awaited(getattr(target, name)(*_listed(args))), wanted, self._tolerance)
                for name, args, wanted in steps
            )

        return test

    def _method_test(self, namespace: dict[str, Any], kind: str, method: str) -> Callable[[], bool]:
        def test() -> bool:
            try:
                return unittests.passes(namespace, kind, method)
            finally:
                self.solution.check()  # unittest catches whatever is raised

        return test

    def _statement_test(self, statement: ast.stmt, namespace: dict[str, Any]) -> Callable[[], bool]:
        def test() -> bool:
            self._refresh(namespace)
            code = compile(ast.Module([comparing(statement)], []), "<tests>", "exec", dont_inherit=True)
            exec(code, namespace)
            return True

        return test

    def _refresh(self, namespace: dict[str, Any]) -> None:
        """The solution's global lists and dicts may have changed since the last statement."""
        for name, value in self._changeable.items():
            if namespace.get(name) is value:
                with contextlib.suppress(KeyError):
                    mirror(value, _global(self.solution, name))

    def _namespace(self) -> dict[str, Any]:
        if self.solution.evidence.captures:
            self.solution.capture()
        # `if __name__ == "__main__": assert ...` is a test too, and `unittest.main` looks for its classes there.
        sys.modules["__main__"] = main = types.ModuleType("__main__")
        namespace: dict[str, Any] = main.__dict__
        namespace |= {SAME: same_object, TYPE: type_of}
        modules = _module_names(self.statements)
        names = self._entry or sorted(_free_names(self.statements) - modules)
        module = _SolutionModule("solution")
        object.__setattr__(module, "_solution", self.solution)
        sys.modules["solution"] = module
        for name in names:
            try:
                namespace[name] = value = _global(self.solution, name)
            except KeyError:
                continue  # using it then raises NameError, in the test that uses it
            if isinstance(value, list | dict | set):
                self._changeable[name] = value
        for name in modules - namespace.keys():
            with contextlib.suppress(ImportError):
                namespace[name] = importlib.import_module(name)
        return namespace


class _SolutionModule(types.ModuleType):
    """`from solution import f` in a test."""

    _solution: Solution

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            return _global(self._solution, name)
        except KeyError:
            raise AttributeError(name) from None


def _global(solution: Solution, name: str) -> Any:
    return solution.ask("global", name, producer=f"={name}")


def _lookup(solution: Solution, entry: str) -> Callable[[], Any]:
    """`f`, or `Class.method` of a fresh instance."""
    owner, _, method = entry.partition(".")

    def find() -> Any:
        found = _global(solution, owner)
        return getattr(found(), method) if method else found

    return find


def _module_names(statements: list[ast.stmt]) -> set[str]:
    """Modules of the standard library that tests use without importing them: `math.isclose(...)`, never `math(...)`.

    They are the tests' own: a solution that offers its `math` isn't asked for it.
    """
    nodes = [n for s in statements for n in ast.walk(s)]
    owners = {n.value.id for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)}
    called = {n.func.id for n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    return (owners & _free_names(statements) & sys.stdlib_module_names) - called


def _awaited(value: Any) -> Any:
    return asyncio.run(value) if isinstance(value, types.CoroutineType) else value


def _listed(args: Any) -> list[Any]:
    return list(args) if isinstance(args, list | tuple) else [args]


def _parse(texts: list[str]) -> list[ast.stmt]:
    try:
        return [statement for text in texts for statement in ast.parse(text).body]
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UnusableTests(f"the tests don't compile: {_text(error)}") from error


def _counted(statements: list[ast.stmt]) -> set[int]:
    """Which statements are tests: those that assert; where no test is, the calls (`check(f)`)."""
    plain = [s for s in statements if not isinstance(s, _FUNCTIONS)]
    asserting = {id(s) for s in plain if any(isinstance(n, ast.Assert) for n in ast.walk(s))}
    if asserting or _test_functions(statements) or unittests.test_methods(statements):
        return asserting
    return {id(s) for s in plain if isinstance(s, ast.Expr) and unittests.is_telling_call(s.value)}


def _test_functions(statements: list[ast.stmt]) -> list[str]:
    """Names of pytest-style functions: `def test_x():` that nothing else calls."""
    called = {n.id for s in statements for n in ast.walk(s) if isinstance(n, ast.Name)}
    return [
        s.name
        for s in statements
        if isinstance(s, ast.FunctionDef) and s.name.startswith("test") and not s.args.args and s.name not in called
    ]


def _free_names(statements: list[ast.stmt]) -> set[str]:
    used: set[str] = set()
    bound: set[str] = set(dir(builtins))
    for node in (n for s in statements for n in ast.walk(s)):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            bound.update((a.asname or a.name).split(".")[0] for a in node.names)
        elif isinstance(node, _FUNCTIONS):
            bound.add(node.name)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            bound.add(node.name)
    return used - bound


def _source(statement: ast.stmt) -> str:
    return ast.unparse(statement)[:200]


def _short(name: str, value: Any) -> str:
    text = repr(value)
    return name + (text if len(text) <= 100 else text[:97] + "...")
