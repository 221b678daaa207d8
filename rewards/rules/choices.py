"""Multiple choice: which letter an answer settles on."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.rewards.contract import BuiltinReward, Case, RowError, judging_nothing
from posttrain.rewards.mathematics.boxed import last_boxed
from posttrain.rewards.rules.text import normalise

_MOST = 100_000
# `answer is X`, `Answer: X`, `"answer": "X"`, `the best choice is option X`; all repeats are bounded.
_STATED = re.compile(
    r"(?:\b(?:answer|choice|option)\b[*_\"'’s]{0,4}\s{0,3}(?:is\b|:|=|would\s{1,3}be\b|must\s{1,3}be\b)|答案\s?[是为选：:])"
    r"\s{0,3}[:：*_]{0,3}\s{0,3}"
    r"(?:(?:option|choice|letter)\s{1,3})?"
    r"(?P<open>[\"'(\[{$*_]{0,4}(?:\\(?:text|mathrm|boxed)\{\(?)?)"
    r"(?P<letter>[^\s\"'(\[{$*_])(?P<close>[\"')\]}$*_.]{0,6})(?=(?P<rest>[^\n]{0,40}))",
    re.IGNORECASE,
)
# `option X is correct`
_CORRECT = re.compile(
    r"\b(?i:answer|choice|option)\s{1,3}[\"'(\[*_]{0,3}(?P<letter>[A-Z])[\"')\]*_]{0,3}\s{1,3}is\s{1,3}"
    r"(?:the\s{1,3})?(?:only\s{1,3})?(?:correct|right|best)\b",
)
_BOX = re.compile(r"\\boxed\{\s{0,3}(?:\\text\{)?\(?([A-Za-z])[).]?\}?\s{0,3}\}")
_ENUMERATED = 3
"""Letters that are stated in one answer: so many are all that there are, not a change of mind."""
# A lone line: `C. Paris`, and the letters that may not stand in its text.
_LINE = re.compile(r"[(\[*_]{0,4}(?P<letter>[A-Z])(?:[)\]*_]{1,4}|[.:]|$)[.:*_]{0,3}(?P<text>[^\n]{0,400})")
_LETTERS = re.compile(r"(?<![A-Za-z])[B-HJ-Z](?![A-Za-z'’.])|\A\s{0,3}(?:[A-Z][.,)]?\s{0,3}){2,}\Z")
# What follows a letter: `, B`, ` or maybe (b)`, ` / C`; or the rest of a sentence that it is a word of.
_HEDGE = re.compile(
    r"\s{0,3}(?:[,/&|]|(?i:or|and)\b)\s{0,3}(?:(?i:or|and|maybe|perhaps|possibly|also)\s){0,2}"
    r"(?:[\"'(\[*_]{0,3}[A-HJ-Z](?![A-Za-z'’])|\([A-Za-z]\))"
)
_GOES_ON = re.compile(r"\s{1,3}(?!(?:because|since|as|for|which|it|with|due)\b)[a-z]")


def multiple_choice(
    prompts: Sequence[Any],
    completions: Sequence[str],
    answer: Sequence[Any],
    choices: Sequence[Any] | None = None,
    **columns: Any,
) -> list[float | RowError | None]:
    """1.0 where the choice that the answer settles on is the column `answer`, a letter.

    A choice is stated by the last box, by `"answer": "C"` in JSON, by `answer is C` or similar, or by being all
    there is on the only line; the last statement counts. The column `choices` (a list of texts for A, B, ..., or an
    object from letter to text) lets an option's own text stand for its letter. Several letters in a statement, or three
    in all statements, settle on none; an article or a pronoun is not a letter.
    """
    rows = zip(completions, answer, choices or [None] * len(completions), strict=True)
    return [_score(text, gold, options) for text, gold, options in rows]


def _score(text: str, gold: Any, options: Any) -> float | RowError | None:
    if gold is None:
        return None
    wanted = str(gold).strip(" ().").upper()
    try:
        texts = _letters(options)
    except ValueError as error:
        return RowError(str(error))
    if len(wanted) != 1 or not wanted.isalpha() or (texts and wanted not in texts):
        return RowError(f"column `answer` should be the letter of a choice, not {gold!r}")
    return float(choice_of(text, texts) == wanted)


def _letters(options: Any) -> dict[str, str]:
    """Letter to normalised text. Raises ValueError."""
    if options is None:
        return {}
    options = json.loads(options) if isinstance(options, str) and options[:1] in "[{" else options
    if isinstance(options, Mapping):
        return {str(letter).strip().upper(): normalise(str(text)) for letter, text in options.items() if text}
    if isinstance(options, str) or not hasattr(options, "__iter__"):
        raise ValueError("column `choices` should be a list of texts, or an object from letters to texts")
    return {chr(ord("A") + i): normalise(str(text)) for i, text in enumerate(options)}


def choice_of(text: str, options: Mapping[str, str]) -> str | None:
    """The letter that a text settles on; None if it settles on none. `options`: letter to normalised text."""
    text = text[-_MOST:]
    found = _object_field(text)
    if found is not None:
        return _named(found, options)
    stated = [_stated(match, options) for match in _STATED.finditer(text)]
    stated += [(match.start(), match["letter"]) for match in _CORRECT.finditer(text)]
    stated = sorted(statement for statement in stated if statement[1] is not None)
    letters = {letter for _, letter in stated} | {match[1].upper() for match in _BOX.finditer(text)}
    if len(letters - {_SEVERAL}) >= _ENUMERATED:
        return None
    boxed = last_boxed(text)
    if boxed is not None and not (stated and stated[-1][0] > text.rfind("boxed")):
        return _named(boxed, options)
    if stated:
        return None if stated[-1][1] == _SEVERAL else stated[-1][1]
    return _named(text, options)


_SEVERAL = "several"


def _stated(match: re.Match[str], options: Mapping[str, str]) -> tuple[int, str | None]:
    """(where, the letter that is stated there: `_SEVERAL` for several at once, None if it states nothing)"""
    if _is_letter(match):
        return match.start(), _SEVERAL if _HEDGE.match(match["rest"]) else match["letter"].upper()
    said = normalise(match.string[match.start("open") : match.start("open") + 500].split("\n")[0]).strip("\"'*_ ")
    return match.start(), next((letter for letter, option in options.items() if said == option), None)


def _object_field(text: str) -> str | None:
    """What stands in the field `answer` of a JSON object that is all of the text, fenced or not."""
    bare = re.sub(r"\A```(?:json)?[ \t]*\n|\n[ \t]*```\Z", "", text.strip())
    if not (bare.startswith("{") and bare.endswith("}")):
        return None
    try:
        value = json.loads(bare)
    except (ValueError, RecursionError):  # the model's JSON, not ours: it may be plain text in braces
        return None
    found = value.get("answer") if isinstance(value, dict) else None
    return found if isinstance(found, str) else None


def _is_letter(statement: re.Match[str]) -> bool:
    """Whether the letter of a statement is a choice: not the start of a word, an article or a pronoun."""
    letter, rest, wrapped = statement["letter"], statement["rest"], bool(statement["open"] or statement["close"])
    if not (letter.isascii() and letter.isalpha()) or rest[:1].isalnum() or (rest[:1] in "'’-" and rest[1:2].isalpha()):
        return False
    if wrapped:
        return not (letter in "aI" and statement["close"] == "" and _GOES_ON.match(rest))
    if letter.islower():
        return not rest.strip(" .")
    return not (letter in "AI" and _GOES_ON.match(rest))


def _named(said: str, options: Mapping[str, str]) -> str | None:
    """The letter that a box, a field or a lone line names: itself, with its option's text, or by that text."""
    bare = re.sub(r"\\(?:text|mathrm|mathbf|textbf)\s?", "", said).strip().strip("{}$ ")
    by_text = [letter for letter, option in options.items() if normalise(bare) == option]
    if len(by_text) == 1:
        return by_text[0]
    letters = bare.strip("\"'().*_[] ")
    if len(letters) == 1 and letters.isalpha():
        return letters.upper()
    line = _LINE.fullmatch(bare)
    if line is None or _LETTERS.search(line["text"]):
        return None
    if options and normalise(line["text"]) != options.get(line["letter"]):
        return None
    return line["letter"]


_OPTIONS = {"answer": "C", "choices": ["Rome", "Oslo", "Paris", "Bern"]}

REWARDS: dict[str, BuiltinReward] = {
    "multiple_choice": BuiltinReward(
        function=multiple_choice,
        columns=("answer",),
        optional=("choices",),
        check=judging_nothing(multiple_choice, "answer", "choices"),
        doc="the choice that the answer settles on is the column `answer`",
        gold=Case(completion="Not Rome (A). The answer is **(C)**.", columns=_OPTIONS),
        adversarial=Case(completion="The answer is A, B, C or D.", columns=_OPTIONS),
    )
}
