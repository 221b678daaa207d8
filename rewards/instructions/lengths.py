"""Instructions on how much is written (IFEval, arXiv 2311.07911, Table 1: length constraints)."""

from __future__ import annotations

import re

from posttrain.rewards.instructions.checker import Checker, compares, count, relation, text

_WORD = re.compile(r"\w+")
_RULE = re.compile(r"^[ \t]{0,8}\*{3}[ \t]{0,8}$", re.MULTILINE)
_BLANK_LINE = re.compile(r"\n[ \t]{0,8}\n\s*")
_END = re.compile(r"(?<![.!?。！？…])[.!?。！？…]++[\"'”’)\]*_]{0,4}(?=\s|$)|(?<=[。！？])")
_ITEM_NUMBER = re.compile(r"\s*[-*#]?\s?\(?\d{1,3}[.)]")
_SHORT_FORMS = frozenset(
    "mr mrs ms dr prof st vs e.g i.e etc cf no fig jr sr inc ltd approx dept est u.s u.k a.m p.m ph.d".split()
)
_MARKS_AROUND = "\"'“”‘’«».,;:!?*_#()[]"


def sentences(answer: str) -> list[str]:
    """The sentences of a text, by its full stops and the like; a blank line ends one too.

    Decimals, web addresses, initials, numbers of items and the usual short forms (Dr., e.g.) end none. No library: the
    usual ones fetch a model.
    """
    found: list[str] = []
    for block in re.split(r"\n[ \t]*\n", answer):
        start = 0
        for end in _END.finditer(block):
            piece = block[start : end.end()]
            if end.group().startswith(".") and _goes_on(piece, block[end.end() : end.end() + 8]):
                continue
            found.append(piece)
            start = end.end()
        found.append(block[start:])
    return [s for s in found if _WORD.search(s)]


def _goes_on(piece: str, rest: str) -> bool:
    """Whether the full stop at the end of `piece` ends a short form, an initial or an item's number, not a sentence."""
    last = (piece[-24:].split()[-1:] or [""])[0].strip(_MARKS_AROUND)
    initial = len(last) == 1 and last.isupper() and last != "I" and bool(rest.strip())
    return initial or last.lower() in _SHORT_FORMS or _ITEM_NUMBER.fullmatch(piece) is not None


def number_sentences(answer: str, num_sentences: int, relation: str) -> bool:
    """So many sentences."""
    return compares(len(sentences(answer)), num_sentences, relation)


def number_words(answer: str, num_words: int, relation: str) -> bool:
    """So many words."""
    return compares(len(_WORD.findall(answer)), num_words, relation)


def number_paragraphs(answer: str, num_paragraphs: int) -> bool:
    """Exactly so many paragraphs, parted by lines of three stars; none of them empty."""
    parts = [part.strip() for part in _RULE.split(answer)]
    if parts and not parts[0]:
        parts = parts[1:]
    if parts and not parts[-1]:
        parts = parts[:-1]
    return all(parts) and len(parts) == num_paragraphs


def nth_paragraph_first_word(answer: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Exactly so many paragraphs, parted by blank lines, and the nth starts with the word."""
    parts = [part.strip() for part in _BLANK_LINE.split(answer) if part.strip()]
    if len(parts) != num_paragraphs or not 1 <= nth_paragraph <= num_paragraphs:
        return False
    first = parts[nth_paragraph - 1].split(maxsplit=1)[0]
    return first.strip(_MARKS_AROUND).lower() == first_word.strip().lower()


CHECKERS: dict[str, Checker] = {
    "length_constraints:number_sentences": Checker(
        holds=number_sentences, arguments={"num_sentences": count, "relation": relation}
    ),
    "length_constraints:number_words": Checker(
        holds=number_words, arguments={"num_words": count, "relation": relation}
    ),
    "length_constraints:number_paragraphs": Checker(holds=number_paragraphs, arguments={"num_paragraphs": count}),
    "length_constraints:nth_paragraph_first_word": Checker(
        holds=nth_paragraph_first_word,
        arguments={"num_paragraphs": count, "nth_paragraph": count, "first_word": text},
    ),
}
