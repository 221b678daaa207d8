"""Instructions on words, letters, case and language (IFEval, arXiv 2311.07911, Table 1: keywords, language,
change case, punctuation)."""

from __future__ import annotations

import re
from typing import Any

from posttrain.rewards.instructions.checker import Checker, compares, count, relation, text, texts
from posttrain.rewards.rules import detect

_WORD = re.compile(r"\w+(?:['’-]\w+)*")


def existence(answer: str, keywords: list[str]) -> bool:
    """Every keyword stands in the answer, in any case, as part of a word too (the plural counts)."""
    lower = answer.lower()
    return all(word.lower() in lower for word in keywords)


def frequency(answer: str, keyword: str, frequency: int, relation: str) -> bool:
    """The keyword comes so often, in any case."""
    return compares(answer.lower().count(keyword.lower()), frequency, relation)


def forbidden(answer: str, forbidden_words: list[str]) -> bool:
    """None of the words stands in the answer as a word of its own."""
    return not any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", answer, re.IGNORECASE) for word in forbidden_words)


def letter_frequency(answer: str, letter: str, let_frequency: int, let_relation: str) -> bool:
    """The letter comes so often, in any case."""
    return compares(answer.lower().count(letter.lower()), let_frequency, let_relation)


def language(value: Any) -> str:
    """A language that the detector knows: in another, no answer could obey."""
    code = text(value)
    if not detect.is_known(code):
        raise ValueError(f"there is no detector of {code!r}: it should be an ISO 639-1 code")
    return code


def response_language(answer: str, language: str) -> bool:
    """All of the answer is in one language; where it is too short for a detector, in that language's script."""
    found = detect.is_in(answer, language)
    if found is not None:
        return found
    used = detect.letters_by_script(answer)
    return bool(used) and set(used) <= detect.scripts_of(language)


def capital_words(answer: str, capital_frequency: int, capital_relation: str) -> bool:
    """So many words are all capitals."""
    return compares(sum(w.isupper() for w in _WORD.findall(answer)), capital_frequency, capital_relation)


def capital(answer: str) -> bool:
    """English, and all capitals."""
    return answer.isupper() and response_language(answer, "en")


def lowercase(answer: str) -> bool:
    """English, and no capitals."""
    return answer.islower() and response_language(answer, "en")


def no_comma(answer: str) -> bool:
    """No comma, of any script."""
    return not any(comma in answer for comma in ",，、،")


CHECKERS: dict[str, Checker] = {
    "keywords:existence": Checker(holds=existence, arguments={"keywords": texts}),
    "keywords:frequency": Checker(
        holds=frequency, arguments={"keyword": text, "frequency": count, "relation": relation}
    ),
    "keywords:forbidden_words": Checker(holds=forbidden, arguments={"forbidden_words": texts}),
    "keywords:letter_frequency": Checker(
        holds=letter_frequency, arguments={"letter": text, "let_frequency": count, "let_relation": relation}
    ),
    "language:response_language": Checker(holds=response_language, arguments={"language": language}),
    "change_case:capital_word_frequency": Checker(
        holds=capital_words, arguments={"capital_frequency": count, "capital_relation": relation}
    ),
    "change_case:english_capital": Checker(holds=capital),
    "change_case:english_lowercase": Checker(holds=lowercase),
    "punctuation:no_comma": Checker(holds=no_comma),
}
