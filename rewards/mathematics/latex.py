"""Reads a final answer in LaTeX into a comparable value, as far as that takes no algebra.

"\\frac{1}{2}", "0.5", "50\\%"  ->  Number(1/2)        "(0, 1]"   ->  Group("(", "]", (0, 1))
"x=3 \\text{ or } x=-3"         ->  Many((3, -3))      "x^2 + 1"  ->  Expression("x^2 + 1"), left to sympy
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from posttrain.rewards.mathematics import arithmetic, units

MAX_LENGTH = 4000
_MAX_ITEMS = 64
_MAX_NESTING = 8


@dataclass(frozen=True)
class Number:
    value: Fraction
    percent: bool = False
    unit: str = ""


@dataclass(frozen=True)
class Infinity:
    sign: int


@dataclass(frozen=True)
class Symbol:
    """One letter, Latin or Greek: a choice, a variable, or a constant that is not rational."""

    name: str


@dataclass(frozen=True)
class Words:
    text: str


@dataclass(frozen=True)
class Group:
    """A tuple or an interval: they are written alike."""

    opening: str
    closing: str
    items: tuple[Value, ...]


@dataclass(frozen=True)
class Many:
    """Several values: a set (no duplicates), or a list of solutions."""

    items: tuple[Value, ...]
    is_set: bool


@dataclass(frozen=True)
class Union:
    parts: tuple[Value, ...]


@dataclass(frozen=True)
class Matrix:
    rows: tuple[tuple[Value, ...], ...]


@dataclass(frozen=True)
class Based:
    """Digits in a stated base: another base is another answer."""

    digits: str
    base: str


@dataclass(frozen=True)
class Huge:
    """A number too large to compute; equal only to what is written the same."""


@dataclass(frozen=True)
class Expression:
    """Anything else, normalised."""

    text: str


Value = Number | Infinity | Symbol | Words | Group | Many | Union | Matrix | Based | Huge | Expression

_CHARACTERS = {
    "−": "-", "–": "-", "×": r"\times ", "÷": "/", "·": r"\cdot ", "π": r"\pi ", "∞": r"\infty ", "√": r"\sqrt",
    "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "±": r"\pm ", "°": "",
    "²": "^2", "³": "^3", "’": "'", "⟨": r"\langle ", "⟩": r"\rangle ", "θ": r"\theta ", "α": r"\alpha ",
}  # fmt: skip
_REWRITES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\(?:left|right|displaystyle|textstyle|limits|nolimits|[bB]ig{1,2}[lr]?)(?![A-Za-z])\.?", " "),
        (r"\\phantom\s*\{[^{}]*\}", ""),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\{,\}", ","),
        (r"(?<!\\)\\[,;:! ]|\\q?quad(?![A-Za-z])|~", " "),
        (r"\^\s*(?:\\circ|\{\s*\\circ\s*\})|\\degree(?![A-Za-z])", ""),
        (r"\\(?:times|cdot|ast)(?![A-Za-z])", "*"),
        (r"\\div(?![A-Za-z])", "/"),
        (r"\\(?:leq|leqslant|le)(?![A-Za-z])", r"\\le "),
        (r"\\(?:geq|geqslant|ge)(?![A-Za-z])", r"\\ge "),
        (r"\\(?:lt)(?![A-Za-z])", "<"),
        (r"\\(?:gt)(?![A-Za-z])", ">"),
        (r"\\infin(?:ty)?(?![A-Za-z])", r"\\infty "),
        (r"\\lbrace(?![A-Za-z])", r"\\{"),
        (r"\\rbrace(?![A-Za-z])", r"\\}"),
        (r"\\(?:mathbb|mathcal)\s*\{?\s*R\s*\}?", r"\\R "),
        (r"\\%", "%"),
        (r"\\?\$|\\[()\[\]]|£|€|¥", " "),
        (r"\\pi\s+", r"\\pi "),
    )
)
TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|emph|operatorname)\s*\{([^{}]*)\}")
_BOX = re.compile(r"\s*\\(?:boxed|fbox)\s*\{(.*)\}\s*", re.DOTALL)
LEFT_SIDE = re.compile(
    r"\s*[A-Za-z]\w?(?:_\{?\w+\}?)?'*\s*(?:\(\s*\w(?:\s*,\s*\w)*\s*\))?\s*(?:=|\\in(?![A-Za-z]))(?!=)"
)
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?\s*%?")
_BASED = re.compile(r"([0-9A-Fa-f]+)_\{?\s*(\d{1,2})\s*\}?")
_UNIT = re.compile(r"(?<=[\d}).!])(\s*)([A-Za-z][A-Za-z./\s]*(?:\^\s*\{?[23]\}?)?)\s*$")
_CURRENCY = re.compile(r"^(?:USD|EUR|GBP|Rs)\.?\s*(?=[\d.])")
_FUNCTIONS = {"pi", "sqrt", "sin", "cos", "tan", "log", "ln", "exp", "frac", "mod", "choose", "or", "and"}
_ENVIRONMENT = re.compile(r"\\begin\{([pbvB]?matrix|array)\}(?:\{[lcr|]*\})?(.*)\\end\{\1\}", re.DOTALL)
_RELATION = re.compile(r"\\le(?![A-Za-z])|\\ge(?![A-Za-z])|[<>]=?")
_WORD = re.compile(r"[A-Za-z][A-Za-z'’\s-]{2,}")
_GREEK = re.compile(r"\\(?:alpha|beta|gamma|delta|theta|lambda|mu|phi|pi|omega|sigma|rho|varphi|epsilon|R)\s*")


def clean(text: str) -> str:
    """One spelling for what LaTeX and Unicode write in several ways."""
    text = "".join(map(_character, text))
    text = unicodedata.normalize("NFKC", text)
    while box := _BOX.fullmatch(text):
        text = box.group(1)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    return text.strip().removesuffix(".").strip()


def _character(character: str) -> str:
    if character in _CHARACTERS:
        return _CHARACTERS[character]
    if ord(character) < 128:
        return character if ord(character) >= 32 or character in "\n\t" else ""
    decomposition = unicodedata.decomposition(character)
    if not decomposition.startswith("<fraction>"):
        return character
    # `½` as ` 1/2`: the blank makes a mixed number of `1½`.
    return " " + "".join(chr(int(code, 16)) for code in decomposition.split()[1:]).replace("⁄", "/")


def squeeze(text: str) -> str:
    """The text without blanks, save those between two digits and behind a command."""
    text = re.sub(r"(?<![\d\s])\s+|\s+(?![\d\s])", " ", text)
    return re.sub(r"(?<!\d) (?!\w)|(?<=\W) |(?<=\d) (?!\d)", "", text)


def read(text: str) -> Value:
    """The value of an answer, already `clean`. Never raises, whatever the text."""
    if len(text) > MAX_LENGTH:
        return Huge()
    return _read(text, 0)


def _read(text: str, depth: int) -> Value:
    if depth > _MAX_NESTING:
        return Expression(text.strip())
    text, words = without_text(text.strip())
    if words is not None:
        return Words(words)
    text = text.strip()
    if not re.fullmatch(_THOUSANDS, text):
        parts = _split(text, ",")
        if 1 < len(parts) <= _MAX_ITEMS:
            return Many(_flatten(_read(p, depth + 1) for p in parts), is_set=False)
    if side := LEFT_SIDE.match(text):
        rest = text[side.end() :]
        if rest.strip() and "=" not in rest:
            return _read(rest, depth + 1)
    for reader in (_read_union, _read_matrix, _read_enclosed, _read_relation, _read_plus_minus):
        value = reader(text, depth)
        if value is not None:
            return value
    return _read_single(text)


def without_text(text: str) -> tuple[str, str | None]:
    """(the rest, None), or ("", the words) if there is nothing but text.

    `and` and `or` become commas, units stay as plain letters, single letters too; other words are dropped.
    """
    if "\\" not in text:
        return re.sub(r"\s+(?:and|or)\s+", ",", text), None
    inner = [m.group(1).strip() for m in TEXT.finditer(text)]
    if inner and not TEXT.sub(" ", text).strip(" {}().,"):
        return "", " ".join(inner)
    rest = TEXT.sub(_plain, text)
    return re.sub(r"(?<=[\s\d}])(?:and|or)(?=[\s\d\\])", ",", rest), None


def _plain(match: re.Match[str]) -> str:
    inner = match.group(1).strip(" ,")
    if inner in ("and", "or"):
        return ","
    return f" {inner} " if len(inner) == 1 or units.canonical(inner) else " "


def _split(text: str, separator: str) -> list[str]:
    """At separators outside all brackets."""
    parts, depth, start, i = [], 0, 0, 0
    while i < len(text):
        if text[i] == "\\" and text[i + 1 : i + 2] in ("{", "}"):
            depth += 1 if text[i + 1] == "{" else -1
            i += 2
            continue
        if text[i] in "([{":
            depth += 1
        elif text[i] in ")]}":
            depth -= 1
        elif depth == 0 and text.startswith(separator, i):
            parts.append(text[start:i])
            start = i + len(separator)
            i = start
            continue
        i += 1
    return [*parts, text[start:]]


def _flatten(values: Iterable[Value]) -> tuple[Value, ...]:
    flat: list[Value] = []
    for value in values:
        flat += value.items if isinstance(value, Many) and not value.is_set else [value]
    return tuple(flat)


def _read_union(text: str, depth: int) -> Value | None:
    parts = _split(text, "\\cup")
    return Union(tuple(_read(p, depth + 1) for p in parts)) if len(parts) > 1 else None


def _read_matrix(text: str, depth: int) -> Value | None:
    match = _ENVIRONMENT.fullmatch(text)
    if not match or "\\begin" in match.group(2):
        return None
    rows = [row for row in re.split(r"\\\\", match.group(2)) if row.strip()]
    return Matrix(tuple(tuple(_read(cell, depth + 1) for cell in row.split("&")) for row in rows))


def _read_enclosed(text: str, depth: int) -> Value | None:
    for opening, closing in (("\\{", "\\}"), ("\\langle", "\\rangle")):
        if text.startswith(opening) and text.endswith(closing) and text.count(opening) == 1:
            items = _flatten(_read(p, depth + 1) for p in _split(text[len(opening) : -len(closing)], ","))
            return Many(items, is_set=True) if opening == "\\{" else Group("(", ")", items)
    if not text or text[0] not in "([" or text[-1] not in ")]" or not _closes_at_end(text):
        return None
    parts = _split(text[1:-1], ",")
    if 1 < len(parts) <= _MAX_ITEMS:
        return Group(text[0], text[-1], tuple(_read(p, depth + 1) for p in parts))
    inner = text[1:-1].strip()
    return Symbol(inner) if re.fullmatch(r"[A-Z]", inner) else None  # a choice: (B)


def _closes_at_end(text: str) -> bool:
    depth = 0
    for i, character in enumerate(text):
        depth += (character in "([") - (character in ")]")
        if depth == 0:
            return i == len(text) - 1
    return False


def _read_relation(text: str, depth: int) -> Value | None:
    """x < 2, 1 <= x < 3: the interval they mean."""
    sides, marks = _RELATION.split(text), _RELATION.findall(text)
    if not 1 <= len(marks) <= 2 or any(not s.strip() for s in sides):
        return None
    upward = ["<" in m or m == "\\le" for m in marks]
    closed = [m in ("\\le", "\\ge", "<=", ">=") for m in marks]
    is_variable = [re.fullmatch(r"\s*[A-Za-z]\s*", s) is not None for s in sides]
    if len(marks) == 2:
        if not is_variable[1] or upward[0] != upward[1]:
            return None
        low, high = (0, 2) if upward[0] else (2, 0)
        first, last = (closed[0], closed[1]) if upward[0] else (closed[1], closed[0])
        ends = (_read(sides[low], depth + 1), _read(sides[high], depth + 1))
        return Group("[" if first else "(", "]" if last else ")", ends)
    if is_variable[0] == is_variable[1]:
        return None
    bound = _read(sides[1] if is_variable[0] else sides[0], depth + 1)
    if upward[0] == is_variable[0]:
        return Group("(", "]" if closed[0] else ")", (Infinity(-1), bound))
    return Group("[" if closed[0] else "(", ")", (bound, Infinity(1)))


def _read_plus_minus(text: str, depth: int) -> Value | None:
    if text.count("\\pm") != 1:
        return None
    return Many(tuple(_read(text.replace("\\pm", sign), depth + 1) for sign in ("+", "-")), is_set=False)


def _read_single(text: str) -> Value:
    if infinite := re.fullmatch(r"([+-]?)\s*\\infty\s*", text):
        return Infinity(-1 if infinite.group(1) == "-" else 1)
    if re.fullmatch(r"[A-Za-z]", text) or _GREEK.fullmatch(text):
        return Symbol(text.strip())
    if based := _BASED.fullmatch(text):
        return Based(based.group(1).upper(), based.group(2))
    number, percent = text.rstrip(), False
    if number.endswith("%"):
        number, percent = number[:-1], True
    number, unit = _without_unit(_CURRENCY.sub("", number))
    if unit == "percent":
        unit, percent = "", True
    try:
        return Number(arithmetic.evaluate(number), percent, unit)
    except arithmetic.TooLarge:
        return Huge()
    except arithmetic.Unreadable:
        words = _WORD.fullmatch(text)
        return Words(text) if words and not set(text.lower().split()) & _FUNCTIONS else Expression(text)


def _without_unit(text: str) -> tuple[str, str]:
    """(the number, its unit or ""). A single letter is a unit only behind a blank: 5m is a product."""
    match = _UNIT.search(text)
    unit = units.canonical(match.group(2)) if match else None
    if match is None or unit is None or (len(match.group(2)) == 1 and not match.group(1)):
        return text, ""
    return text[: match.start()], unit
