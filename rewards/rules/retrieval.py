"""Rewards on answers from given documents."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from posttrain.rewards.contract import BuiltinReward, Case, RowError, judging_nothing
from posttrain.rewards.rules.copies import without_copies
from posttrain.rewards.rules.detect import prompt_text
from posttrain.rewards.rules.text import mentions, normalise, texts
from posttrain.thinking import is_blank

LONGEST_QUOTE = 40
"""Words in a row: an answer may quote the documents, but not be one of them."""
_CITATION = re.compile(r"\[(\d{1,4}(?:\s{0,3}[,;]\s{0,3}\d{1,4}){0,31})\]")
_MIN_WORDS = 3


def grounded(
    prompts: Sequence[Any],
    completions: Sequence[str],
    required: Sequence[Any],
    forbidden: Sequence[Any] | None = None,
    *,
    credit: Literal["all", "fraction"] = "all",
    **columns: Any,
) -> list[float | RowError | None]:
    """1.0 where the answer says all that the column `required` lists and nothing of the column `forbidden`.

    An entry is text, or a list of texts of which one will do (an answer and its other names). Words are compared as
    whole words, without case. Anything forbidden, such as what only the distracting documents say, makes it 0.0; what
    is copied from the prompt over 40 words in a row isn't counted as said. `credit: fraction` pays the share.
    """
    rows = zip(prompts, completions, required, forbidden or [None] * len(completions), strict=True)
    return [_grounded(prompt, text, wanted, unwanted, credit) for prompt, text, wanted, unwanted in rows]


def _grounded(prompt: Any, text: str, required: Any, forbidden: Any, credit: str) -> float | RowError | None:
    if required is None and forbidden is None:
        return None
    try:
        wanted, unwanted = alternatives(required, "required"), alternatives(forbidden, "forbidden")
    except ValueError as error:
        return RowError(str(error))
    if is_blank(text) or says(text, [[word] for words in unwanted for word in words]):
        return 0.0
    found = says(without_copies(text, prompt, run=LONGEST_QUOTE), wanted)
    return found / len(wanted) if wanted and credit == "fraction" else float(found == len(wanted))


def alternatives(value: Any, column: str) -> list[list[str]]:
    """A column of texts, and of lists of texts that are as good as each other. Raises ValueError."""
    entries = [value] if isinstance(value, str) else [] if value is None else value
    if isinstance(entries, Mapping) or not hasattr(entries, "__iter__"):
        raise ValueError(f"column `{column}` should be a list of texts")
    found = [texts(entry) for entry in entries]
    whole = [words for words in found if words]
    if len(whole) < len(found):
        raise ValueError(f"column `{column}` should be a list of texts, or of lists of texts, none of them empty")
    return whole


def says(text: str, wanted: Sequence[Sequence[str]]) -> int:
    """How many entries a text mentions, each by one of its texts."""
    said = normalise(text)
    return sum(any(mentions(said, word) for word in words) for words in wanted)


def citations(
    prompts: Sequence[Any],
    completions: Sequence[str],
    supporting: Sequence[Any],
    documents: Sequence[Any] | None = None,
    **columns: Any,
) -> list[float | RowError | None]:
    """F1 of the documents that the answer cites, as [n] or [n, m], against the column `supporting`, a list of numbers.

    A citation of a document that isn't there makes it 0.0: which there are says the column `documents` (how many, or
    a list of numbers), else the [n] of the prompt. Marks without an answer of three words around them are none. With
    nothing that supports, nothing may be cited.
    """
    rows = zip(prompts, completions, supporting, documents or [None] * len(completions), strict=True)
    return [_citations(prompt, text, wanted, there) for prompt, text, wanted, there in rows]


MOST_DOCUMENTS = 10_000


def _citations(prompt: Any, text: str, supporting: Any, documents: Any) -> float | RowError | None:
    if supporting is None:
        return None
    try:
        wanted = _numbers(supporting, "supporting")
        there = cited(prompt_text(prompt)) if documents is None else _documents(documents)
    except ValueError as error:
        return RowError(str(error))
    if there and wanted - there:
        return RowError(f"column `supporting` names documents that aren't there: {sorted(wanted - there)}")
    found = cited(text)
    if len(re.findall(r"[^\W\d]\w*", _CITATION.sub(" ", text))) < _MIN_WORDS or (there and found - there):
        return 0.0
    return 2 * len(found & wanted) / (len(found) + len(wanted)) if found or wanted else 1.0


def cited(text: str) -> set[int]:
    """The numbers that a text has in square brackets."""
    return {int(number) for mark in _CITATION.findall(text) for number in re.findall(r"\d+", mark)}


def _documents(documents: Any) -> set[int]:
    if isinstance(documents, int) and not isinstance(documents, bool):
        if not 0 <= documents <= MOST_DOCUMENTS:
            raise ValueError(f"column `documents` should be 0 to {MOST_DOCUMENTS:,} documents, not {documents:,}")
        return set(range(1, documents + 1))
    return _numbers(documents, "documents")


def _numbers(value: Any, column: str) -> set[int]:
    try:
        value = json.loads(value) if isinstance(value, str) else value
        return {int(number) for number in value}
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"column `{column}` should be a list of numbers") from None


_DOCUMENTS = "[1] Oslo is the capital of Norway. [2] Bern is the capital of Switzerland. Question: Norway's capital?"

REWARDS: dict[str, BuiltinReward] = {
    "grounded": BuiltinReward(
        function=grounded,
        columns=("required",),
        optional=("forbidden",),
        check=judging_nothing(grounded, "required", "forbidden"),
        doc="says what the column `required` lists, and nothing of the column `forbidden`",
        gold=Case(completion="It is Oslo.", prompt=_DOCUMENTS, columns={"required": ["Oslo"], "forbidden": ["Bern"]}),
        adversarial=Case(
            completion="It is Oslo or Bern.", prompt=_DOCUMENTS, columns={"required": ["Oslo"], "forbidden": ["Bern"]}
        ),
    ),
    "citations": BuiltinReward(
        function=citations,
        columns=("supporting",),
        optional=("documents",),
        check=judging_nothing(citations, "supporting", "documents"),
        doc="cites the documents of the column `supporting`, and no others (F1)",
        gold=Case(completion="The capital is Oslo [1].", prompt=_DOCUMENTS, columns={"supporting": [1]}),
        adversarial=Case(completion="The capital is Oslo [1][2].", prompt=_DOCUMENTS, columns={"supporting": [1]}),
    ),
}
