"""Retrieval over a small corpus: BM25 (Robertson and Zaragoza 2009), by the library bm25s."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from posttrain.rewards.environments.base import Environment


class Search(Environment):
    """Finds documents. The corpus is the row's column `corpus`, a list of texts, or a file for all rows.

    `corpus` is a .jsonl file with a `text` a line, or a text file with a document a line; its path starts at the
    recipe's folder. `top` is how many documents are shown.
    """

    def __init__(self, corpus: str | None = None, top: int = 2) -> None:
        self._top = top
        self._file = corpus
        self._documents: tuple[str, ...] = ()

    def reset(self, **columns: Any) -> None:
        """See Environment. Raises ValueError where there is no corpus."""
        given = columns.get("corpus")
        if self._file is not None:
            self._documents = _read(str(self.recipe_dir / Path(self._file).expanduser()))
        elif isinstance(given, Sequence) and not isinstance(given, str) and len(given):
            self._documents = tuple(map(str, given))
        else:
            raise ValueError("search needs the column `corpus`, a list of texts, or the parameter `corpus`, a file")

    def search(self, query: str) -> str:
        """Finds documents that speak of something.

        Args:
            query: words to look for
        """
        found = _find(self._documents, query, self._top)
        return "\n".join(f"[{number + 1}] {self._documents[number]}" for number in found) or "nothing was found"


@functools.lru_cache(maxsize=8)
def _read(path: str) -> tuple[str, ...]:
    lines = [line for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    return tuple(json.loads(line)["text"] if path.endswith(".jsonl") else line for line in lines)


@functools.lru_cache(maxsize=64)
def _index(documents: tuple[str, ...]) -> Any:
    import bm25s

    retriever = bm25s.BM25()
    retriever.index(bm25s.tokenize(list(documents), stopwords=None, show_progress=False), show_progress=False)
    return retriever


def _find(documents: tuple[str, ...], query: str, top: int) -> list[int]:
    """Numbers of the best documents, best first; those that share no word with the query aside."""
    import bm25s

    words = bm25s.tokenize([query], stopwords=None, show_progress=False, return_ids=False)
    known = [[word for word in words[0] if word in _index(documents).vocab_dict]]
    if not known[0]:
        return []
    numbers, scores = _index(documents).retrieve(known, k=min(top, len(documents)), show_progress=False)
    return [int(n) for n, score in zip(numbers[0], scores[0], strict=True) if score > 0]
