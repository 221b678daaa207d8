"""Rewards on the text of an answer: equality, keywords, patterns."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator

from posttrain.rewards.contract import BuiltinReward, Case, RowError, judging_nothing
from posttrain.rewards.rules.copies import without_copies
from posttrain.rewards.rules.detect import script_of
from posttrain.thinking import visible

_MAX_PATTERN_TEXT = 100_000


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"no regular expression: {error}") from None
    return pattern


Pattern = Annotated[str, AfterValidator(_compiles)]
"""A regular expression of Python; a wrong one is refused with the recipe."""


_RAISED = re.compile("([\u00b2\u00b3\u00b9\u00bc-\u00be\u2070-\u209c\u2150-\u215f\u2189])")


def normalise(text: str) -> str:
    """Unicode NFKC, case folded, runs of white space as one blank, no final full stop.

    Raised and lowered digits and fractions stay: NFKC would make x2 of x², and 11/2 of 1½. Characters that show
    nothing, such as soft hyphens, are left out.
    """
    if not text.isascii():
        text = visible(text)
        parts = _RAISED.split(text)
        parts[::2] = [unicodedata.normalize("NFKC", part) for part in parts[::2]]
        text = "".join(parts)
    return " ".join(text.casefold().split()).removesuffix(".").rstrip()


def exact(
    prompts: Sequence[Any], completions: Sequence[str], answer: Sequence[Any], **columns: Any
) -> list[float | None]:
    """1.0 where the answer equals the column `answer` up to case, white space and a final full stop."""
    return [
        None if gold is None else float(normalise(text) == normalise(str(gold)))
        for text, gold in zip(completions, answer, strict=True)
    ]


def contains(
    prompts: Sequence[Any],
    completions: Sequence[str],
    keywords: Sequence[Any],
    *,
    count_copies: bool = False,
    **columns: Any,
) -> list[float | RowError | None]:
    """The share of the column `keywords` (text or a list) that appear in the answer as whole words.

    What the answer copies from the prompt, eight words in a row or a whole turn, doesn't count: saying the prompt
    again would hold every keyword that it names. `count_copies` counts it.
    """
    rows = zip(prompts, completions, keywords, strict=True)
    return [_share(text if count_copies else without_copies(text, prompt), words) for prompt, text, words in rows]


def _share(text: str, keywords: Any) -> float | RowError | None:
    words = texts(keywords)
    if words is None:
        return RowError("column `keywords` should be text or a list of text")
    if not words:
        return None
    said = normalise(text)
    return sum(mentions(said, word) for word in words) / len(words)


_UNSPACED = frozenset(("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "THAI", "LAO", "KHMER", "MYANMAR"))
"""Scripts whose words no blank ends, or that join particles to them."""


def texts(value: Any) -> list[str] | None:
    """A column of text or of a list of texts, none of them without a word; None if it is anything else."""
    if value is None or isinstance(value, str):
        value = [value] if value else []
    if isinstance(value, Mapping) or not hasattr(value, "__iter__"):
        return None
    found = list(value)
    return found if all(isinstance(text, str) and normalise(text) for text in found) else None


def mentions(said: str, phrase: str) -> bool:
    """Whether a normalised text has a phrase as whole words; where a script has no blanks between them, anywhere."""
    wanted = normalise(phrase)
    if not wanted:
        return False
    left = "" if script_of(wanted[0]) in _UNSPACED else r"(?<!\w)"
    right = "" if script_of(wanted[-1]) in _UNSPACED else r"(?!\w)"
    return re.search(left + re.escape(wanted) + right, said) is not None


def regex(
    prompts: Sequence[Any], completions: Sequence[str], *, pattern: Pattern, full: bool = False, **columns: Any
) -> list[float]:
    """1.0 where the parameter `pattern` is found in the answer; with `full`, where it matches all of it.

    White space around the answer doesn't count. Runs in a worker: patterns can backtrack for ever. An answer of more
    than 100,000 characters matches nothing as a whole, and is searched up to there.
    """
    compiled = re.compile(pattern, re.DOTALL)
    if full:
        return [float(len(t) <= _MAX_PATTERN_TEXT and compiled.fullmatch(t.strip()) is not None) for t in completions]
    return [float(compiled.search(text[:_MAX_PATTERN_TEXT]) is not None) for text in completions]


_KEYWORDS = {"keywords": ["cat", "dog"]}

REWARDS: dict[str, BuiltinReward] = {
    "exact": BuiltinReward(
        function=exact,
        columns=("answer",),
        doc="equals the column `answer` up to case and white space",
        gold=Case(completion="  paris. ", columns={"answer": "Paris"}),
        adversarial=Case(completion="Paris, or Rome", columns={"answer": "Paris"}),
    ),
    "contains": BuiltinReward(
        function=contains,
        columns=("keywords",),
        check=judging_nothing(contains, "keywords"),
        doc="share of the column `keywords` in the answer, copies of the prompt aside",
        gold=Case(completion="A cat chased a dog.", columns=_KEYWORDS, prompt="Name a cat and a dog."),
        adversarial=Case(completion="Name a cat and a dog.", columns=_KEYWORDS, prompt="Name a cat and a dog."),
    ),
    "regex": BuiltinReward(
        function=regex,
        params=("pattern",),
        needs="worker",
        doc="the parameter `pattern` is found in the answer, or matches all of it",
        gold=Case(completion="1969", params={"pattern": r"19\d\d", "full": True}),
        adversarial=Case(completion="1968 or 1969", params={"pattern": r"19\d\d", "full": True}),
    ),
}
