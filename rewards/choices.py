"""Multiple choice: which letter an answer settles on."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.rewards.boxed import last_boxed
from posttrain.rewards.contract import BuiltinReward, Case, RowError
from posttrain.rewards.text import normalise

_MOST = 100_000
_STATED = re.compile(
    r"\b(?:answer|choice|option)\b[*_\"'’s]{0,4}\s{0,3}"
    r"(?:is\b|:|=|would\s{1,3}be\b|must\s{1,3}be\b)\s{0,3}[:*_]{0,3}\s{0,3}"
    r"(?:(?:option|choice|letter)\s{1,3})?"
    r"(?P<open>[\"'(\[{$*_]{0,4}(?:\\(?:text|mathrm|boxed)\{\(?)?)"
    r"(?P<letter>[A-Za-z])(?P<close>[\"')\]}$*_.]{0,6})(?P<rest>[^\n]{0,40})",
    re.IGNORECASE,
)
_LINE = re.compile(r"[(\[*_]{0,4}(?P<letter>[A-Z])(?:[)\]*_]{1,4}|[.:]|$)[.:*_]{0,3}(?P<text>[^\n]{0,400})")
_HEDGE = re.compile(r"\s{0,3}(?:,|/|&|\bor\b|\band\b|\|)\s{0,3}(?:or\s|and\s)?[\"'(\[*_]{0,3}[A-Z](?![A-Za-z'’])", re.I)
_GOES_ON = re.compile(r"\s{1,3}(?!(?:because|since|as|for|which|it|with|due)\b)[a-z]")


def multiple_choice(
    prompts: Sequence[Any],
    completions: Sequence[str],
    answer: Sequence[Any],
    choices: Sequence[Any] | None = None,
    **columns: Any,
) -> list[float | RowError | None]:
    """1.0 where the choice that the answer settles on is the column `answer`, a letter.

    A choice is stated by the last box, by `"answer": "C"` in JSON, by `answer is C` and its like, or by being all
    there is on the only line; the last statement counts. The column `choices` (a list of texts for A, B, ..., or an
    object from letter to text) lets an option's own text stand for its letter. More than one letter in a statement
    settles on none, and an article or a pronoun is no letter.
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
    boxed = last_boxed(text)
    stated = list(_STATED.finditer(text))
    if boxed is not None and not (stated and stated[-1].start() > text.rfind(boxed)):
        return _named(boxed, options)
    for statement in reversed(stated):
        if _is_letter(statement):
            return None if _HEDGE.match(statement["rest"]) else _upper(statement["letter"])
        if options:
            said = normalise(text[statement.start("open") :].split("\n")[0])
            return next((letter for letter, option in options.items() if said.strip("\"'*_ ") == option), None)
    return _named(text, options)


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
    if rest[:1].isalnum() or (rest[:1] in "'’-" and rest[1:2].isalpha()):
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
        return _upper(letters)
    line = _LINE.fullmatch(bare)
    if line is None or "\n" in bare or re.search(r"(?<![A-Za-z])[B-HJ-Z](?![A-Za-z'’.])", line["text"]):
        return None
    if options and normalise(line["text"]) != options.get(line["letter"]):
        return None
    return _upper(line["letter"])


def _upper(letter: str) -> str:
    return letter.upper()


_OPTIONS = {"answer": "C", "choices": ["Rome", "Oslo", "Paris", "Bern"]}

REWARDS: dict[str, BuiltinReward] = {
    "multiple_choice": BuiltinReward(
        function=multiple_choice,
        columns=("answer",),
        optional=("choices",),
        doc="the choice that the answer settles on is the column `answer`",
        gold=Case(completion="Not Rome (A). The answer is **(C)**.", columns=_OPTIONS),
        adversarial=Case(completion="The answer is A, B, C or D.", columns=_OPTIONS),
    )
}
