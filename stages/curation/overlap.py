"""Which held-out questions also stand in training data, by content.

Two notions. A row of a data set holds a question if its own content is that question. A plain document holds one if
the question stands in it whole: an expression of three or more terms that isn't part of a longer one (sums of two
numbers are the facts that a base has to know), or the sentence of an instruction.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from posttrain.stages.data.content import normal, questions
from posttrain.types import Prompt

_EXPRESSION = re.compile(r"\d+(?:[+-]\d+){2,}(?![+-]?\d)")
_SENTENCE = re.compile(r"[A-Z][^.?!\n<]*[.?!]")


@dataclass(frozen=True, kw_only=True)
class SuiteOverlap:
    """How many of a suite's questions also stand elsewhere."""

    suite: str
    questions: int
    in_data: int
    rows: int
    """Rows of the run's data that were compared."""
    in_corpus: int | None = None
    """None where the base's documents aren't known."""
    documents: int = 0
    examples: tuple[str, ...] = ()
    """Some of the questions found, for a person to look at."""

    def __str__(self) -> str:
        data = (
            f"{self.in_data} in the run's data ({self.rows} rows compared)" if self.rows else "no data to compare with"
        )
        if self.in_corpus is not None:
            data += f", {self.in_corpus} in the base's corpus ({self.documents} documents)"
        return f"{self.suite}: {self.questions} questions, {data}"


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Contents that training met, and how many rows or documents they come from."""

    contents: frozenset[str]
    count: int


def seen_in_rows(prompts: Iterable[Prompt]) -> Seen:
    """The contents of rows."""
    found = [questions(prompt) for prompt in prompts]
    return Seen(contents=frozenset().union(*found), count=len(found))


def seen_in_documents(texts: Iterable[str]) -> Seen:
    """Whole expressions and sentences of plain documents.

    >>> sorted(seen_in_documents(["1+2=3. 9+1+2-3: 10, Sort 3 1 2. 1 2 3"]).contents)
    ['9+1+2-3', 'sort 3 1 2.']
    """
    contents: set[str] = set()
    count = 0
    for text in texts:
        count += 1
        contents.update(_EXPRESSION.findall(text))
        contents.update(normal(sentence) for sentence in _SENTENCE.findall(text))
    return Seen(contents=frozenset(contents), count=count)


def overlap(suites: Mapping[str, Iterable[Prompt]], data: Seen, corpus: Seen | None = None) -> list[SuiteOverlap]:
    """Compare each suite's questions with what training met; a dialogue counts if any of its turns was met."""
    result = []
    for name, prompts in suites.items():
        asked = [questions(prompt) for prompt in prompts]
        in_data = [contents for contents in asked if contents & data.contents]
        in_corpus = [contents for contents in asked if corpus and contents & corpus.contents]
        found = {c for contents in in_data for c in contents & data.contents}
        found |= {c for contents in in_corpus for c in contents & corpus.contents} if corpus else set()
        result.append(
            SuiteOverlap(
                suite=name,
                questions=len(asked),
                in_data=len(in_data),
                rows=data.count,
                in_corpus=len(in_corpus) if corpus else None,
                documents=corpus.count if corpus else 0,
                examples=tuple(sorted(found)[:5]),
            )
        )
    return result
