"""What is kept for evaluation, and which texts are too near to it: n-gram overlap and MinHash.

A text is too near to an item if it is the same question, shares a run of `ngram` words (13, as Brown et al. 2020,
arXiv 2005.14165, appendix C), holds more than `at_most` of the item's runs of three words, or is nearly the item with
other numbers. Runs that stand in many items are the form of their prompts, and count for nothing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from posttrain.stages.data.content import content, normal, questions
from posttrain.stages.data.minhash import bands, shingles, signatures, similarity, tokens
from posttrain.types import Prompt

_SHORT = 3
_MANY, _MANY_SHARE = 3, 0.1
_FEWEST_GRAMS = 5
_FEWEST_MASKED = 12
_FORMS = tuple(
    (tokens(form), " ".join(tokens(form)))
    for form in (
        "Please reason step by step, and put your final answer within \\boxed{}.",
        "Think step by step.",
        "Let's think step by step.",
        "Solve the following math problem.",
        "Give your final answer in \\boxed{}.",
        "Answer the following multiple choice question.",
    )
)


@dataclass(frozen=True, kw_only=True)
class Found:
    """Why a text is too near to an item."""

    how: str
    item: str
    """The item's set and its beginning."""

    def __str__(self) -> str:
        return f"{self.how}: {self.item}"


@dataclass(frozen=True, kw_only=True)
class _Item:
    label: str
    words: tuple[str, ...]
    """Without the form."""
    short: frozenset[str]
    """Its runs of three words."""


class HeldOut:
    """An index over held-out questions; empty, it finds nothing."""

    def __init__(
        self,
        sets: Iterable[tuple[str, Iterable[Prompt]]] = (),
        *,
        ngram: int = 13,
        at_most: float = 0.5,
        near: float = 0.75,
    ) -> None:
        self.ngram, self.at_most, self.near = ngram, at_most, near
        self._contents: dict[str, str] = {}
        self._items: list[_Item] = []
        for name, prompts in sets:
            for prompt in prompts:
                self._add(name, prompt)
        self._index()

    def __len__(self) -> int:
        return len(self._items)

    def find(self, prompt: Prompt, said: str = "") -> Found | None:
        """The item that a question, or what is said to it, is too near to."""
        found = self.find_all([prompt])[0]
        return found or (self._near(_words(said)) if said and self._items else None)

    def find_all(self, prompts: Sequence[Prompt], tokens_of: Callable[[str], list[str]] = tokens) -> list[Found | None]:
        """The item that each question is too near to; many at once are signed at once.

        `tokens_of` is `tokens`, or remembers what it gave.
        """
        if not self._items:
            return [None] * len(prompts)
        texts = [
            "\n".join(str(m.get("content") or "") for m in p.messages if m.get("role") != "system") for p in prompts
        ]
        words = [_without_forms(tokens_of(text)) for text in texts]
        found = [self._same(prompt) or self._near(own) for prompt, own in zip(prompts, words, strict=True)]
        left = [i for i, item in enumerate(found) if item is None]
        for i, item in zip(left, self._nearly([words[i] for i in left]), strict=True):
            found[i] = item
        return found

    def _same(self, prompt: Prompt) -> Found | None:
        keys = [content(prompt)]
        if "key" in prompt.columns or "queries" in prompt.columns:  # else the only question is the content
            keys += sorted(questions(prompt))
        known = next((key for key in keys if key in self._contents), None)
        return None if known is None else Found(how="the same question", item=self._contents[known])

    def _add(self, name: str, prompt: Prompt) -> None:
        asked = "\n".join(str(m.get("content") or "") for m in prompt.messages if m.get("role") == "user")
        label = f"{name}: {normal(asked)[:60]}"
        for key in (content(prompt), *questions(prompt)):
            self._contents.setdefault(key, label)
        words = tuple(_without_forms(tokens(asked)))
        grams = frozenset(shingles(words, _SHORT)) if len(words) >= _SHORT else frozenset()
        self._items.append(_Item(label=label, words=words, short=grams))

    def _index(self) -> None:
        counts = Counter(gram for item in self._items for gram in item.short)
        most = max(_MANY, _MANY_SHARE * len(self._items))
        self._form = {gram for gram, count in counts.items() if count >= most}
        self._short: dict[str, list[int]] = defaultdict(list)
        self._long: dict[str, int] = {}
        self._needed = np.zeros(len(self._items))
        for number, item in enumerate(self._items):
            own = item.short - self._form
            self._needed[number] = len(own)
            for gram in own:
                self._short[gram].append(number)
            if len(item.words) >= self.ngram:
                for gram in shingles(item.words, self.ngram):
                    # A long run that is all form says nothing.
                    if any(part not in self._form for part in shingles(gram.split(" "), _SHORT)):
                        self._long.setdefault(gram, number)
        self._known = self._form.union(self._short)
        masked = [(number, _masked(item.words)) for number, item in enumerate(self._items)]
        long = [(number, words) for number, words in masked if len(words) >= _FEWEST_MASKED]
        self._masked = signatures([shingles(words, 2) for _, words in long])
        self._masked_of = [number for number, _ in long]
        self._bands: dict[int, list[int]] = defaultdict(list)
        for row, hashes in enumerate(bands(self._masked)):
            for hash_ in hashes.tolist():
                self._bands[hash_].append(row)

    def _near(self, words: list[str]) -> Found | None:
        if len(words) < _SHORT:
            return None
        short = shingles(words, _SHORT)
        if self._short.keys().isdisjoint(short):  # what is found below holds a short run of an item that isn't form
            return None
        # A long run of an item is made of its short ones: most texts haven't as many of those.
        if sum(map(self._known.__contains__, short)) > self.ngram - _SHORT:
            for gram in shingles(words, self.ngram) if len(words) >= self.ngram else ():
                if gram in self._long:
                    return Found(how=f"{self.ngram} words in a row", item=self._items[self._long[gram]].label)
        # In the text's order, not a set's, which differs from process to process: the first item is the one named.
        hits = Counter(n for gram in dict.fromkeys(short) for n in self._short.get(gram, ()))
        for number, count in hits.items():
            item = self._items[number]
            needed = self._needed[number]
            if needed >= _FEWEST_GRAMS and count > self.at_most * needed:
                return Found(how=f"{count / needed:.0%} of its words", item=item.label)
            # A short question, said whole.
            if needed and count == needed == len(item.short) and _holds(words, item.words):
                return Found(how="the question, word for word", item=item.label)
        return None

    def _nearly(self, texts: Sequence[list[str]]) -> list[Found | None]:
        """By MinHash, numbers aside. One call signs them all: each has a cost of its own."""
        found: list[Found | None] = [None] * len(texts)
        masked = [(i, _masked(words)) for i, words in enumerate(texts)]
        long = [(i, words) for i, words in masked if len(words) >= _FEWEST_MASKED]
        if not long or not self._masked_of:
            return found
        signed = signatures([shingles(words, 2) for _, words in long])
        hashed = bands(signed)
        known = np.isin(hashed, np.fromiter(self._bands, np.uint64, len(self._bands)))
        for place in np.flatnonzero(known.any(-1)).tolist():
            rows = {row for hash_ in hashed[place].tolist() for row in self._bands.get(hash_, ())}
            for row in sorted(rows):
                alike = float(similarity(self._masked[row], signed[place]))
                if alike >= self.near:
                    label = self._items[self._masked_of[row]].label
                    found[long[place][0]] = Found(how=f"MinHash similarity {alike:.2f}, numbers aside", item=label)
                    break
        return found


def _words(text: str) -> list[str]:
    return _without_forms(tokens(text))


def _without_forms(words: list[str]) -> list[str]:
    text = " ".join(words)
    for form, said in _FORMS:
        if said not in text:
            continue
        for start in range(len(words) - len(form), -1, -1):
            if words[start : start + len(form)] == form:
                words = words[:start] + words[start + len(form) :]
    return words


def _masked(words: Sequence[str]) -> list[str]:
    return [word if word.isalpha() or not word[0].isdigit() else "0" for word in words]


def _holds(words: Sequence[str], part: Sequence[str]) -> bool:
    size = len(part)
    return any(tuple(words[i : i + size]) == tuple(part) for i in range(len(words) - size + 1))
