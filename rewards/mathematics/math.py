"""The mathematics verifier: does the last \\boxed of an answer equal the gold answer?

Layers, each only for what the one before left open: the same text; exact arithmetic and structure (latex.py, in
the caller, tens of microseconds); guards on size; sympy by way of math-verify, in a fresh confined room that is ended
at a deadline (math-verify's own limit is a signal, which works on a main thread only and would be the caller's).

Policies: no box, or a box that is never closed, is wrong. Only the last box counts. A rounded decimal is not the
number. Percent: 25 equals 25 %, 0.25 doesn't unless one side says %. A missing unit is right, a different one is
wrong. Lists are unordered, tuples are ordered, sets ignore duplicates. A stated base is part of the answer.
"""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Sequence
from typing import Any

from posttrain.rewards.contract import RowError
from posttrain.rewards.libraries import safe_expressions
from posttrain.rewards.mathematics import latex
from posttrain.rewards.mathematics.arithmetic import TooLarge, Unreadable, evaluate
from posttrain.rewards.mathematics.boxed import last_boxed
from posttrain.rewards.mathematics.equality import equal
from posttrain.rewards.mixture.rooms import symbolic_rooms
from posttrain.sandbox.confined import ConfinedService
from posttrain.sandbox.confined.service import CallFailed, LoadFailed, RoomUnavailable
from posttrain.thinking import CLOSE, answer_of

DEADLINE_S = 2.0
"""For one symbolic comparison, start of the process not counted."""
_MAX_SYMBOLIC_LENGTH = 600
_MAX_EXPONENT = 1000
_MAX_GROUP_EXPONENT = 40
_CHARACTERS = re.compile(r"[A-Za-z0-9\s\\+\-*/^_(){}\[\],.=<>|!&:]*")
_COMMANDS = set(
    "frac sqrt pi infty sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln exp lg le ge ne pm mp in "
    "cup cap emptyset varnothing alpha beta gamma delta epsilon theta lambda mu nu phi varphi psi rho sigma tau "
    "omega Gamma Delta Omega binom begin end R overline lfloor rfloor lceil rceil vert mid sum prod cdots ldots".split()
)


def math(
    prompts: Sequence[Any],
    completions: Sequence[str],
    answer: Sequence[Any],
    *,
    symbolic: Symbolic | None = None,
    **columns: Any,
) -> list[float | RowError | None]:
    """1.0 where the last \\boxed of the answer equals the column `answer`, as mathematics, else 0.0.

    None (not applicable) where the gold answer is missing or can't be read as anything. `symbolic` is the process
    for what takes algebra; without it such rows are None.
    """
    return [
        None if gold is None else _score(str(gold), text, symbolic)
        for gold, text in zip(answer, completions, strict=True)
    ]


def _score(gold: str, text: str, symbolic: Symbolic | None) -> float | RowError | None:
    verdict = verify(gold, text, symbolic)
    return float(verdict) if isinstance(verdict, bool) else verdict


def verify(gold: str, text: str, symbolic: Symbolic | None = None) -> bool | RowError | None:
    """Whether the completion `text` answers `gold`. None: can't be decided; RowError: the process failed."""
    boxed = last_boxed(answer_of(text) if CLOSE in text else text)
    return False if boxed is None else same(gold, boxed, symbolic)


def same(gold: str, answer: str, symbolic: Symbolic | None = None) -> bool | RowError | None:
    """Whether two final answers are equal; asymmetric only in what may be left open: the gold decides."""
    wanted_text, wanted = _read_gold(gold)
    if len(answer) > latex.MAX_LENGTH and len(answer) > 2 * len(gold):
        return False
    answer_text = latex.clean(answer)
    if not wanted_text:
        return None
    if latex.squeeze(wanted_text) == latex.squeeze(answer_text):
        return True
    decided = equal(wanted, latex.read(answer_text))
    if decided is not None:
        return decided
    if not is_safe(answer_text):
        return False
    if not is_safe(wanted_text) or symbolic is None:
        return None
    return symbolic.same(_strip(wanted_text), _strip(answer_text))


@functools.lru_cache(maxsize=4096)
def _read_gold(gold: str) -> tuple[str, latex.Value]:
    boxed = last_boxed(gold)
    text = latex.clean(gold if boxed is None else boxed)
    return text, latex.read(text)


def _strip(text: str) -> str:
    """Without text and units, and without `f(x) =`."""
    rest, _ = latex.without_text(text)
    side = latex.LEFT_SIDE.match(rest)
    return rest[side.end() :] if side and "=" not in rest[side.end() :] else rest


def is_safe(text: str) -> bool:
    """Whether an expression is small and plain enough to be handed to a computer algebra system.

    Not a security border (that is the process): it saves the deadline for what no honest answer contains, such as
    macros, towers of powers, sums over 10^12 terms.
    """
    rest = latex.TEXT.sub(" ", text)
    if len(rest) > _MAX_SYMBOLIC_LENGTH or not _CHARACTERS.fullmatch(rest) or "^^" in rest or "__" in rest:
        return False
    if any(name not in _COMMANDS for name in re.findall(r"\\([A-Za-z]+)", rest)):
        return False
    return rest.count("^") <= 30 and all(_modest(m.start(), rest) for m in re.finditer(r"\^", rest))


def _modest(at: int, text: str) -> bool:
    exponent = _group_after(text, at + 1)
    if "^" in exponent and not re.search(r"[A-Za-z]", exponent):
        return False  # a tower of powers of numbers
    try:
        size = abs(evaluate(exponent))
    except TooLarge:
        return False
    except Unreadable:
        return True
    return size <= (_MAX_GROUP_EXPONENT if text[:at].rstrip()[-1:] in (")", "}") else _MAX_EXPONENT)


def _group_after(text: str, at: int) -> str:
    while text[at : at + 1].isspace():
        at += 1
    if text[at : at + 1] != "{":
        return text[at : at + 1]
    depth = 0
    for i in range(at, len(text)):
        depth += (text[i] == "{") - (text[i] == "}")
        if depth == 0:
            return text[at + 1 : i]
    return text[at + 1 :]


# ---------------------------------------------------------------- sympy, at arm's length


class Symbolic:
    """Compares by algebra, each pair in a confined room of its own that ends at a deadline; thread-safe."""

    def __init__(self, rooms: ConfinedService | None = None) -> None:
        """`rooms` run a SymbolicService; those that all of this process shares, if not given."""
        self._rooms = rooms or symbolic_rooms()
        self._known: dict[tuple[str, str], bool | RowError | None] = {}
        self._lock = threading.Lock()

    def same(self, gold: str, answer: str) -> bool | RowError | None:
        """Whether they are equal; None if the gold can't be read; RowError if the process fails by itself.

        An answer that can't be compared before the deadline, while the gold can be read alone, is not equal.
        """
        key = gold, answer
        with self._lock:
            if key in self._known:
                return self._known[key]
        result, certain = self._compare(gold, answer)
        if not certain:
            return result
        with self._lock:
            if len(self._known) > 10_000:
                self._known.clear()
            self._known[key] = result
        return result

    def _compare(self, gold: str, answer: str) -> tuple[bool | RowError | None, bool]:
        """The verdict, and whether the comparison itself gave it."""
        try:
            return _verdict(self._rooms.call((gold, answer), DEADLINE_S)), True
        except LoadFailed as error:
            return RowError(f"math-verify can't be loaded:\n{error}"), False
        except RoomUnavailable as error:
            return RowError(str(error), "unreached"), False
        except CallFailed:
            pass  # the answer's doing, or the gold's: the gold alone decides
        try:
            readable = self._rooms.call((gold, gold), 2 * DEADLINE_S)
        except RoomUnavailable as error:
            return RowError(str(error), "unreached"), False
        except (CallFailed, LoadFailed) as error:
            return RowError(f"the gold answer {gold!r} can't be compared with itself: {error}"), False
        return (False if readable else None), False


def _verdict(found: object) -> bool | None:
    return found if found is None else found is True


WARM_UP = (
    (r"\frac{1}{2}+\sqrt{3}", r"\sqrt{3}+0.5"),
    (r"(-\infty,2]\cup\{5\}", "x^2+1"),
    (r"e^{i\pi}", r"\sin(x)^2"),
)
"""Pairs that make the libraries load what they load late."""


class SymbolicService:
    """Runs inside the rooms. LaTeX only: the plain-expression parser of math-verify evaluates Python."""

    def __init__(self) -> None:
        import logging

        import sympy
        from latex2sympy2_extended import NormalizationConfig
        from math_verify import LatexExtractionConfig, parse, verify

        safe_expressions.install()  # latex2sympy reads numbers by sympy's parser, which evaluates
        logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that limits are our business: they are
        # Its removal of units would take `2ab` for 2; ours has been done already.
        tidy = NormalizationConfig(
            basic_latex=True, units=False, malformed_operators=True, nits=False, boxed="none", equations=False
        )
        config = LatexExtractionConfig(normalization_config=tidy)
        self._sympy, self._verify = sympy, verify
        self._parse = functools.lru_cache(maxsize=1024)(
            lambda text: parse(f"${text}$", [config], fallback_mode="no_fallback", parsing_timeout=None)
        )
        for pair in WARM_UP:  # so that what is loaded late, is loaded before rooms are forked
            self(pair)

    def __call__(self, pair: tuple[str, str]) -> bool | None:
        """None if the gold can't be read."""
        gold = self._parse(pair[0])
        if not gold:
            return None
        answer = self._parse(pair[1])
        if not answer:
            return False
        # Twelve digits: math-verify's six would take 2.718282 for e.
        if self._verify(gold, answer, float_rounding=12, numeric_precision=30, timeout_seconds=None):
            return True
        return self._equal(gold[0], answer[0])

    def _equal(self, gold: Any, answer: Any) -> bool:
        """What simplification proves, floats aside: math-verify gives up early on the likes of e^{i pi}."""
        if not all(isinstance(v, self._sympy.Expr) and not v.atoms(self._sympy.Float) for v in (gold, answer)):
            return False
        difference = gold - answer
        imaginary = {s: self._sympy.I for s in difference.free_symbols if s.name == "i"}  # the grammar's variable i
        return self._sympy.simplify(difference.subs(imaginary)) == 0
