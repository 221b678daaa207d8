"""What is too near to a held-out item is found as the definition says, and the same item is named by every process."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from posttrain.stages.curation.decontamination import HeldOut
from posttrain.types import Prompt

RUN = 5
TEXTS = st.lists(st.sampled_from("abcde"), min_size=3, max_size=14)


def asked(words: list[str]) -> Prompt:
    return Prompt(id="x", messages=({"role": "user", "content": " ".join(words)},))


def runs(words: list[str], n: int) -> set[tuple[str, ...]]:
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


@given(st.lists(TEXTS, min_size=1, max_size=6), TEXTS)
def test_a_run_of_words_is_found_wherever_it_stands_unless_all_of_it_is_form(
    items: list[list[str]], text: list[str]
) -> None:
    counts = Counter(gram for item in items for gram in runs(item, 3))
    form = {gram for gram, count in counts.items() if count >= 3}
    shared = [run for item in items for run in runs(item, RUN) & runs(text, RUN)]
    expected = any(not runs(list(run), 3) <= form for run in shared)
    found = HeldOut([("s", [asked(item) for item in items])], ngram=RUN, at_most=1.0).find(asked(text))
    if text not in items:
        assert (found is not None and found.how == f"{RUN} words in a row") == expected


def test_of_many_items_the_first_in_the_text_is_named() -> None:
    items = [[f"{letter}{i}" for i in range(9)] for letter in "abcdefghijkl"]
    text = [word for item in reversed(items) for word in item]
    found = HeldOut([("s", [asked(item) for item in items])]).find(asked(text))
    assert found is not None
    assert found.item.startswith("s: l0 l1")
